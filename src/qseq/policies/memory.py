"""What was done in each environment and what was said, for policies that look back.

Legend: B rows of a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from qseq.episodes import PAST_ACTIONS, PastActions
from qseq.networks.text import Instruction


class ActionMemory:
    """Keeps the last actions of each environment, in the form of `PastActions`; nothing without one."""

    def __init__(self, past_actions: PastActions | None) -> None:
        self._past_actions = past_actions
        self._vectors: dict[int, list[np.ndarray]] = {}

    def forget(self, environment_ids: Sequence[int] | None = None) -> None:
        for environment in list(self._vectors) if environment_ids is None else environment_ids:
            self._vectors.pop(environment, None)

    def add(self, environment: int, action: np.ndarray) -> None:
        """The action taken now."""
        if self._past_actions is not None:
            vector = self._past_actions.vectors(np.asarray(action)[None], np.array([True]))[0]
            self._vectors[environment] = [*self._known(environment)[1:], vector]

    def replace_last(self, environment: int, action: np.ndarray) -> None:
        """The last action was another one."""
        if self._vectors.get(environment):
            earlier = self._vectors.pop(environment)
            self._vectors[environment] = [np.zeros_like(earlier[0]), *earlier[:-1]]
            self.add(environment, action)

    def fields(self, environment_ids: Sequence[int]) -> dict[str, np.ndarray]:
        """The field that a network reads, `[B, m, W]` by its name."""
        if self._past_actions is None:
            return {}
        return {PAST_ACTIONS: np.stack([np.stack(self._known(environment)) for environment in environment_ids])}

    def _known(self, environment: int) -> list[np.ndarray]:
        assert self._past_actions is not None
        steps, width = self._past_actions.shape
        return self._vectors.get(environment) or [np.zeros(width, np.float32)] * steps


class InstructionMemory:
    """Embeds each distinct instruction once, and keeps the latest: strangers may say something else every time."""

    def __init__(self, embed: Callable[[Sequence[str]], Instruction], *, kept: int = 1024) -> None:
        self._embed = embed
        self._kept = kept
        self._known: dict[str, Instruction] = {}

    def __call__(self, texts: Sequence[str]) -> Instruction:
        """Of each row."""
        for text in set(texts) - self._known.keys():
            self._known[text] = self._embed([text])
        instruction = Instruction.concatenate([self._known[text] for text in texts])
        while len(self._known) > self._kept:
            del self._known[next(iter(self._known))]
        return instruction
