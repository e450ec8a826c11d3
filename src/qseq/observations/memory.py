"""The last frames each environment showed.

Legend: B rows of a batch, F frames of history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

_BEFORE_ALL = 2**40
"""Farther back than any episode began: what would lie before its start is its first frame."""


def frames_back(history: int, first_frame: bool) -> tuple[int, ...]:
    """How far before the newest frame each of the F lies, oldest first. With `first_frame` the oldest is the episode's
    first, however long ago that was."""
    recent = range(history - 1, -1, -1)
    return (_BEFORE_ALL, *recent[1:]) if first_frame else tuple(recent)


class FrameMemory:
    """Keeps F frames per environment; an episode's first frame fills the places before it.

    Args:
        history: F.
        first_frame: the oldest of them is the episode's first frame.
    """

    def __init__(self, history: int, *, first_frame: bool = False) -> None:
        self.history = history
        self.first_frame = first_frame
        self._back = np.array(frames_back(history, first_frame))
        self._frames: dict[int, dict[str, list[np.ndarray]]] = {}
        self._counts: dict[int, int] = {}

    def forget(self, environment_ids: Sequence[int] | None = None) -> None:
        if environment_ids is None:
            self._frames.clear()
            self._counts.clear()
        else:
            for environment in environment_ids:
                self._frames.pop(environment, None)
                self._counts.pop(environment, None)

    def push(self, frames: Mapping[str, np.ndarray], environment_ids: Sequence[int]) -> dict[str, np.ndarray]:
        """Newest frames `[B, *shape]` -> windows `[B, F, *shape]`, oldest first."""
        for environment in environment_ids:
            self._counts[environment] = self._counts.get(environment, 0) + 1
        if self.history == 1:
            return {name: values[:, None] for name, values in frames.items()}
        for row, environment in enumerate(environment_ids):
            remembered = self._frames.setdefault(environment, {})
            for name, values in frames.items():
                known = remembered.get(name) or [values[row]] * self.history
                kept = [known[0], *known[2:]] if self.first_frame else known[1:]
                remembered[name] = [*kept, values[row]]
        return {name: np.stack([np.stack(self._frames[e][name]) for e in environment_ids]) for name in frames}

    def numbers(self, environment_ids: Sequence[int]) -> np.ndarray:
        """Which frames the windows that `push` gave hold, int64 `[B, F]`, counted from 0 since an episode's start."""
        newest_B1 = np.array([self._counts[environment] - 1 for environment in environment_ids])[:, None]
        numbers_BF: np.ndarray = np.maximum(newest_B1 - self._back, 0)
        return numbers_BF
