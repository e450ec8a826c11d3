"""Scripted policies to collect data with, and experts that fail in instructive ways.

A scripted policy is made anew for each episode: `NAME(env, rng, **kwargs)`, then `reset(observation, info)` once,
`act(observation)` each step and, where it has one, `done()` after each step. It draws from `rng` only.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from qseq.environments.disturbances import CorrelatedNoise, Fumbles, check_probability
from qseq.environments.experts import MetaWorldExpert
from qseq.environments.metaworld_tasks import EXPERT_STEPS
from qseq.errors import RequestError

Observation = dict[str, npt.NDArray[Any]]

# Where the first object's and the goal's positions lie in a Meta-World state, now and one step before.
OBJECT_ENTRIES = (slice(4, 7), slice(22, 25))
GOAL_ENTRIES = (slice(36, 39),)


@runtime_checkable
class ScriptedPolicy(Protocol):
    """What a scripted policy offers; `done() -> bool` is optional: True abandons the episode (truncated)."""

    def reset(self, observation: Observation, info: dict[str, Any]) -> None:
        """Called once, with what `env.reset` returned."""

    def act(self, observation: Observation) -> Any:
        """The action to take; what the environment executes is what is recorded."""


ScriptedFactory = Callable[..., ScriptedPolicy]


def load_scripted(name: str) -> ScriptedFactory:
    """The scripted policy that "package.module:NAME" (or "scripted:package.module:NAME") refers to.

    Raises:
        RequestError: the module or the name does not exist.
    """
    module_name, _, attribute = name.removeprefix("scripted:").rpartition(":")
    if not module_name or not attribute:
        raise RequestError(f"scripted policy '{name}': expected scripted:package.module:NAME")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise RequestError(f"scripted policy '{name}': module '{module_name}' cannot be imported: {error}") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise RequestError(f"scripted policy '{name}': '{module_name}' has no class or function '{attribute}'")
    return factory  # type: ignore[no-any-return]


class CorruptedExpert:
    """Meta-World's scripted expert with a wrong idea of the world and an unsteady hand.

    Each episode is of one kind: with probability `wrong_goal` it believes the goal to be elsewhere, with probability
    `wrong_object` the object, else it sees truly (a clean episode). All kinds carry temporally correlated noise and
    single random actions. Everything is drawn from `rng`, so an episode is a function of it and the environment.

    Args:
        env: the environment (its action space is read).
        rng: source of all randomness.
        wrong_goal, wrong_object: probabilities of the two kinds of error; together at most 1.
        goal_offset, object_offset: least and greatest distance of the error in metres, in a random horizontal
            direction.
        overshoot: False keeps the wrong goal from lying beyond the true one (within 60 degrees of the line from the
            object to it), where the way to it leads through the true goal and succeeds by accident.
        noise_scale: standard deviation of the action noise, or its (low, high) of which each episode draws one.
        noise_correlation: of the noise of one step with the next, in [0, 1).
        random_probability: share of the steps whose action is drawn uniformly from the action space instead.
        random_steps: a random action is held for so many steps (a fumble), then the expert goes on from there.
        abandon: (low, high): give up after this fraction of the expert's usual number of steps, uniformly drawn.

    Raises:
        RequestError: an argument is out of its range, or the environment is not a Meta-World task.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        rng: np.random.Generator,
        *,
        wrong_goal: float = 0.0,
        wrong_object: float = 0.0,
        goal_offset: Sequence[float] = (0.1, 0.2),
        object_offset: Sequence[float] = (0.05, 0.12),
        overshoot: bool = True,
        noise_scale: float | Sequence[float] = 0.3,
        noise_correlation: float = 0.8,
        random_probability: float = 0.1,
        random_steps: int = 1,
        abandon: Sequence[float] | None = None,
    ) -> None:
        check_probability("corrupted_expert", "wrong_goal", wrong_goal)
        check_probability("corrupted_expert", "wrong_object", wrong_object)
        check_probability("corrupted_expert", "wrong_goal + wrong_object", wrong_goal + wrong_object)
        check_probability("corrupted_expert", "noise_correlation", noise_correlation)
        if not isinstance(env.action_space, gym.spaces.Box):
            raise RequestError(f"corrupted_expert needs box actions, found {env.action_space}: it is for Meta-World")
        self._rng = rng
        self._low, self._high = env.action_space.low, env.action_space.high
        self._steps = 0
        self._expert: MetaWorldExpert | None = None
        self._last_step: int | None = None
        self._abandon = None if abandon is None else _range("abandon", abandon)
        self._fumbles = Fumbles(
            rng,
            lambda: rng.uniform(self._low, self._high),
            probability=random_probability,
            steps=random_steps,
            who="corrupted_expert",
        )
        self._overshoot = overshoot
        self._goal_error, self._object_error = np.zeros(3), np.zeros(3)
        self._goal_offset: tuple[float, float] | None = None
        self._object_offset: tuple[float, float] | None = None
        kind = rng.uniform()
        if kind < wrong_goal:
            self._goal_offset = _range("goal_offset", goal_offset)
        elif kind < wrong_goal + wrong_object:
            self._object_offset = _range("object_offset", object_offset)
        scales = (noise_scale, noise_scale) if isinstance(noise_scale, int | float) else noise_scale
        scale = float(rng.uniform(*_range("noise_scale", scales)))
        self._noise = CorrelatedNoise(rng, scale, noise_correlation, self._low.size)

    def reset(self, observation: Observation, info: dict[str, Any]) -> None:
        """Learn which task it is, and get it wrong if this episode is to."""
        task = info.get("task")
        if task not in EXPERT_STEPS:
            raise RequestError(
                f"corrupted_expert acts in Meta-World only: expected a task in info['task'], found {task!r}; "
                "use --env qseq.environments.metaworld:qseq/metaworld-v3 or another policy"
            )
        self._expert = MetaWorldExpert(task)
        self._steps = 0
        if self._goal_offset is not None:
            self._goal_error = self._wrong_goal(np.asarray(observation["state"], dtype=np.float64), self._goal_offset)
        if self._object_offset is not None:
            self._object_error = _horizontal(
                self._rng.uniform(0.0, 2.0 * np.pi), self._rng.uniform(*self._object_offset)
            )
        if self._abandon is not None:
            self._last_step = max(1, round(self._rng.uniform(*self._abandon) * EXPERT_STEPS[task]))

    def act(self, observation: Observation) -> npt.NDArray[np.float32]:
        """The action for the state [39], within the action space."""
        if self._expert is None:
            raise RequestError("corrupted_expert: reset must be called before act")
        self._steps += 1
        believed = np.asarray(observation["state"], dtype=np.float64).copy()
        for entries in OBJECT_ENTRIES:
            believed[entries] += self._object_error
        for entries in GOAL_ENTRIES:
            believed[entries] += self._goal_error
        # Drawn even when not used, so that the noise's course does not depend on where random actions fall.
        noise = self._noise()
        fumble, _ = self._fumbles()
        if fumble is not None:
            return fumble.astype(np.float32)
        return np.clip(self._expert(believed) + noise, self._low, self._high).astype(np.float32)

    def done(self) -> bool:
        """Whether the episode is abandoned now."""
        return self._last_step is not None and self._steps >= self._last_step

    def _wrong_goal(self, state: npt.NDArray[np.float64], offset: tuple[float, float]) -> npt.NDArray[np.float64]:
        if self._overshoot:
            angle = self._rng.uniform(0.0, 2.0 * np.pi)
        else:
            ahead = state[GOAL_ENTRIES[0]] - state[OBJECT_ENTRIES[0]]
            angle = np.arctan2(ahead[1], ahead[0]) + self._rng.uniform(np.pi / 3.0, 5.0 * np.pi / 3.0)
        return _horizontal(float(angle), self._rng.uniform(*offset))


corrupted_expert = CorruptedExpert


def _horizontal(angle: float, length: float) -> npt.NDArray[np.float64]:
    return np.array([length * np.cos(angle), length * np.sin(angle), 0.0])


def _range(name: str, values: Sequence[float]) -> tuple[float, float]:
    if isinstance(values, str) or len(values) != 2 or not 0.0 <= values[0] <= values[1]:
        raise RequestError(f"corrupted_expert: {name}={values!r}: expected two numbers, low <= high, neither negative")
    return float(values[0]), float(values[1])
