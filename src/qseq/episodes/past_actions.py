"""What was done before, as numbers a network can read beside an observation.

Legend: m actions that are remembered, W numbers of one of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from qseq.episodes.action_space import ActionSpace

PAST_ACTIONS = "past_actions"
"""The observation field that holds them: float32 [m, W], oldest first."""


@dataclass(frozen=True)
class PastActions:
    """The last `steps` actions before a frame, each as W numbers.

    The last number is 1; all are 0 where the episode had not begun.

    A choice is a one-hot vector; a number is scaled to [-1, 1] between its bounds, if it has any.
    """

    space: ActionSpace
    steps: int

    @property
    def shape(self) -> tuple[int, int]:
        """(m, W)."""
        return self.steps, 1 + int(self._widths.sum())

    @cached_property
    def _widths(self) -> np.ndarray:
        """Numbers of each dimension."""
        dimensions = int(np.prod(self.space.shape))
        if self.space.kind == "box":
            return np.ones(dimensions, dtype=np.int64)
        return np.asarray(self.space.high - self.space.low + 1, dtype=np.int64).reshape(dimensions)

    def vectors(self, actions: np.ndarray, present: np.ndarray) -> np.ndarray:
        """Actions `[..., *action_shape]` and which of them there were, bool `[...]` -> float32 `[..., W]`."""
        flat = actions.reshape(*present.shape, -1)
        low, high = (bound.reshape(-1) for bound in (self.space.low, self.space.high))
        if self.space.kind == "box":
            bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
            low, high = np.where(bounded, low, -1.0), np.where(bounded, high, 1.0)
            numbers = (2.0 * flat - (low + high)) / (high - low)
        else:
            numbers = np.zeros((*present.shape, int(self._widths.sum())), dtype=np.float32)
            places = np.cumsum(self._widths) - self._widths + (flat - low)
            np.put_along_axis(numbers, places.astype(np.int64), 1.0, axis=-1)
        vectors: np.ndarray = np.concatenate((numbers, np.ones((*present.shape, 1))), axis=-1) * present[..., None]
        return vectors.astype(np.float32)

    def along(self, actions: np.ndarray, frames: np.ndarray) -> np.ndarray:
        """Of an episode's actions `[T, *action_shape]`, those before each of the frames int `[...]`: `[..., m, W]`."""
        before = frames[..., None] - np.arange(self.steps, 0, -1)
        return self.vectors(actions[np.maximum(before, 0)], before >= 0)
