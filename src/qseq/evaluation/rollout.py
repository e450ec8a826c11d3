"""Episodes in several environments stepped in lock-step, so that a policy decides for all of them at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from qseq.environments import DictObservation
from qseq.errors import QseqError
from qseq.evaluation.actors import Actor
from qseq.evaluation.compatibility import env_name
from qseq.evaluation.seeds import episode_seed

Array = npt.NDArray[Any]
OnFrame = Callable[[int, DictObservation], None]

# Rounding may carry an action this far out of its bounds (as a fraction of their distance); more is an error.
SLACK = 1e-4


@dataclass(kw_only=True)
class EpisodeRecord:
    """One finished episode; observations [T+1], actions [T] and rewards [T] are kept only where asked for."""

    index: int
    seed: int
    task: str | None = None
    instruction: str = ""
    length: int = 0
    total_reward: float = 0.0
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None
    observations: list[dict[str, Array]] = field(default_factory=list)
    actions: list[Array] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def finish(self, success_return: float | None) -> None:
        """Where the environment said nothing about success, decide it by the return."""
        if self.success is None and success_return is not None:
            self.success = self.total_reward > success_return


def rollout(
    actor: Actor,
    environments: Sequence[DictObservation],
    indices: Iterable[int],
    seed: int,
    *,
    keep_steps: bool = False,
    success_return: float | None = None,
    on_frame: OnFrame | None = None,
) -> Iterator[EpisodeRecord]:
    """Run the episodes `indices` and yield each as it ends; an environment that is free takes the next one.

    Args:
        actor: who acts; `prepare` has been called.
        environments: one slot each.
        indices: episode numbers; episode i is reset with a pure function of (seed, i).
        seed: of the whole evaluation or collection.
        keep_steps: keep observations, actions and rewards in the records.
        success_return: a return above it is a success where `info` has neither "success" nor "is_success".
        on_frame: called with (episode index, environment) after the reset and each step.

    Raises:
        QseqError: the environment failed or gave something that is not finite, or the actor acted out of bounds;
            names environment, episode and step.
    """
    waiting = iter(indices)
    running: dict[int, _Running] = {}

    def begin(slot: int) -> None:
        index = next(waiting, None)
        if index is None:
            running.pop(slot, None)
            return
        running[slot] = _Running(slot, environments[slot], actor, seed, index, keep_steps)
        if on_frame is not None:
            on_frame(index, environments[slot])

    for slot in range(len(environments)):
        begin(slot)
    while running:
        slots = list(running)
        actions = actor.act(
            slots, [running[slot].observation for slot in slots], [running[slot].record.instruction for slot in slots]
        )
        for slot, action in zip(slots, actions, strict=True):
            episode = running[slot]
            ended = episode.step(action)
            if on_frame is not None:
                on_frame(episode.record.index, environments[slot])
            if not ended and actor.abandons(slot):
                episode.record.truncated = ended = True
            if ended:
                episode.record.finish(success_return)
                yield episode.record
                begin(slot)


class _Running:
    """The episode that goes on in one slot."""

    def __init__(self, slot: int, env: DictObservation, actor: Actor, seed: int, index: int, keep_steps: bool) -> None:
        self._env = env
        self._keep_steps = keep_steps
        self.record = EpisodeRecord(index=index, seed=episode_seed(seed, index))
        actor.start(slot, env, seed, index)
        try:
            self.observation, info = env.reset(seed=self.record.seed)
        except QseqError:
            raise
        except Exception as error:
            raise QseqError(f"{self._where()}: the environment failed: {type(error).__name__}: {error}") from error
        self._check_observation()
        self.record.task = info.get("task")
        self.record.instruction = str(info.get("instruction", ""))
        if keep_steps:
            self.record.observations.append(self.observation)
        actor.observe_start(slot, self.observation, info)

    def step(self, action: Any) -> bool:
        """Take the action; True when the episode has ended."""
        record = self.record
        executed = self._executable(action)
        try:
            self.observation, reward, terminated, truncated, info = self._env.step(executed)
        except QseqError:
            raise
        except Exception as error:
            raise QseqError(f"{self._where()}: the environment failed: {type(error).__name__}: {error}") from error
        if not np.isfinite(reward):
            raise QseqError(f"{self._where()}: the environment gave reward {reward}, expected a finite number")
        record.length += 1
        self._check_observation()
        record.total_reward += reward
        record.terminated, record.truncated = terminated, truncated
        said = info.get("success", info.get("is_success"))
        if said is not None:
            record.success = bool(record.success) or bool(said)
        if self._keep_steps:
            record.observations.append(self.observation)
            record.actions.append(np.asarray(executed))
            record.rewards.append(reward)
        return terminated or truncated

    def _executable(self, action: Any) -> Any:
        """The action in the space's own type; rounding is forgiven, nothing else."""
        space = self._env.action_space
        try:
            native = self._env.native_action(action)
        except (TypeError, ValueError) as error:
            raise QseqError(f"{self._where()}: action {action!r} is not one of {space}: {error}") from error
        if isinstance(space, gym.spaces.Box):
            span = np.where(np.isfinite(space.high - space.low), space.high - space.low, 1.0)
            if not np.isfinite(native).all():
                raise QseqError(f"{self._where()}: action {native} is not finite")
            if (native < space.low - SLACK * span).any() or (native > space.high + SLACK * span).any():
                raise QseqError(f"{self._where()}: action {native} is out of bounds [{space.low}, {space.high}]")
            return np.clip(native, space.low, space.high)
        if not space.contains(native):
            raise QseqError(f"{self._where()}: action {native} is not one of {space}")
        return native

    def _check_observation(self) -> None:
        for name, value in self.observation.items():
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise QseqError(f"{self._where()}: the environment gave {name} that is not finite")

    def _where(self) -> str:
        return f"{env_name(self._env)}, episode {self.record.index}, step {self.record.length}"
