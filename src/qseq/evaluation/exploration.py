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
from qseq.policies import TokenPolicy

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


class ExploringActor(PolicyActor):
    """A policy that explores; how much depends on the steps of all its episodes together.

    "epsilon": with that probability, in each step, the whole action is random, every existing bin of a dimension being
    equally likely. "gumbel": noise from a Gumbel distribution of that scale is added to the value of each bin, so
    better bins are likelier (their softmax at that temperature).

    Args:
        policy: decides.
        schedule: of epsilon, or of the scale.
        first_step: steps done before.
        reseed: see `PolicyActor`.

    Raises:
        RequestError: an epsilon above 1, or a policy that cannot add noise.
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
        if exploration == "gumbel" and not hasattr(policy, "temperature"):
            raise RequestError(f"exploration: a policy of kind '{policy.kind}' takes no noise; use 'epsilon'")
        self._token_policy: Any = policy
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
        if self._exploration == "gumbel":
            self._token_policy.temperature = self.rate
        actions = super().act(slots, observations, instructions)
        for row, slot in enumerate(slots):
            if self._exploration == "epsilon" and self._random[slot].random() < self.rate:
                actions[row] = self._token_policy.random_action(self._random[slot])
            self.steps += 1
        return actions
