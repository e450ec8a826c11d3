"""Acting by a policy, and by chance now and then, less and less often."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from qseq.environments import DictObservation
from qseq.errors import RequestError
from qseq.evaluation.actors import Observation, PolicyActor
from qseq.evaluation.seeds import actor_rng
from qseq.networks.decoding import Select, sample
from qseq.policies import TokenPolicy
from qseq.robot import QTransformerPolicy

Exploration = Literal["epsilon", "gumbel"]


@dataclass(frozen=True)
class LinearSchedule:
    """From `start` in a straight line to `end`, which is reached after `steps` steps and kept.

    Raises:
        RequestError: a number is not valid.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RequestError(f"num_steps_to_target_epsilon: found {self.steps}, expected at least 1")
        if min(self.start, self.end) < 0:
            raise RequestError(f"epsilon: found from {self.start} to {self.end}, expected numbers of at least 0")

    def __call__(self, step: int) -> float:
        return self.end if step >= self.steps else self.start + (self.end - self.start) * step / self.steps


class NoisyPolicy(QTransformerPolicy):
    """A Q-function whose bins are drawn from the softmax of `Q / noise`; with no noise, as it would choose itself.

    That is the best bin after Gumbel noise of this scale is added to the value of each.
    """

    noise = 0.0

    def select(self) -> Select:
        return sample(self.noise, self._generator) if self.noise else super().select()


class ExploringActor(PolicyActor):
    """A policy that explores; how much depends on the steps of all its episodes together.

    "epsilon": with that probability, in each step, the whole action is random, every existing bin of a dimension being
    equally likely. "gumbel": noise of that scale on the value of each bin, so that better ones are likelier.

    Args:
        policy: decides; for "gumbel" a `NoisyPolicy`.
        schedule: of epsilon, or of the scale.
        first_step: steps done before.
        reseed: see `PolicyActor`.

    Raises:
        RequestError: an epsilon above 1, or a policy that takes no noise.
    """

    def __init__(
        self,
        policy: TokenPolicy,
        schedule: LinearSchedule,
        *,
        exploration: Exploration = "epsilon",
        first_step: int = 0,
        name: str = "agent",
        instruction: str | None = None,
        reseed: bool = False,
    ) -> None:
        super().__init__(policy, name=name, instruction=instruction, reseed=reseed)
        if exploration == "epsilon" and max(schedule.start, schedule.end) > 1:
            raise RequestError(f"epsilon: found from {schedule.start} to {schedule.end}, expected numbers up to 1")
        if exploration not in ("epsilon", "gumbel"):
            raise RequestError(f"exploration: found {exploration!r}, expected 'epsilon' or 'gumbel'")
        if exploration == "gumbel" and not isinstance(policy, NoisyPolicy):
            raise RequestError(f"exploration: a policy of kind '{policy.kind}' takes no noise; use 'epsilon'")
        self._explored = policy
        self._schedule = schedule
        self._exploration = exploration
        self._random: dict[int, np.random.Generator] = {}
        self.steps = first_step

    @property
    def rate(self) -> float:
        """Epsilon, or the scale of the noise, of the next step."""
        return self._schedule(self.steps)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()} {self._schedule} {self._exploration}"

    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        super().start(slot, env, seed, index)
        self._random[slot] = actor_rng(seed, index)

    def act(self, slots: Sequence[int], observations: Sequence[Observation], instructions: Sequence[str]) -> list[Any]:
        if isinstance(self._explored, NoisyPolicy) and self._exploration == "gumbel":
            self._explored.noise = self.rate
        actions = super().act(slots, observations, instructions)
        for row, slot in enumerate(slots):
            if self._exploration == "epsilon" and self._random[slot].random() < self.rate:
                actions[row] = self._explored.random_action(self._random[slot])
                self._explored.was_done(slot, actions[row])
            self.steps += 1
        return actions
