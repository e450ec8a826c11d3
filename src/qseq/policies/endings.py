"""Batches of the last steps of episodes, before those of all steps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from qseq.episodes import EpisodeView, WindowBatch, Windows
from qseq.errors import RequestError


@dataclass(frozen=True)
class EndingBatch(WindowBatch):
    """Windows at the last steps of episodes: what these led to is to be looked at, and nothing else."""


class EndingsFirst:
    """The first so many batches are `EndingBatch`es, all others those of `windows`.

    The first third of these hold successes only, which is learnt in a fraction of the steps; half of the others are
    failures, as far as there are any.

    Which episodes are drawn is a pure function of the seed and the batch's index, so a resumed run sees the same ones.

    Args:
        windows: of the view.
        view: the episodes.
        batches: how many.
        seed: of what is drawn.

    Raises:
        RequestError: no episode is a success.
    """

    def __init__(self, windows: Windows, view: EpisodeView, *, batches: int, seed: int) -> None:
        self.windows = windows
        self.fields = windows.fields
        self.batches = batches
        self.seed = seed
        self._successes, self._failures = (np.flatnonzero(view.success == outcome) for outcome in (1, 0))
        self._last_steps = view.lengths - 1
        if batches and not len(self._successes):
            raise RequestError(
                f"objective.matching_steps: found {batches}, expected 0: none of the {view.num_episodes} episodes is "
                "a success"
            )

    def batch_at(self, index: int) -> WindowBatch:
        """The index-th batch of the endless stream."""
        if index >= self.batches:
            return self.windows.batch_at(index)
        random = np.random.default_rng((self.seed, index))
        # What no two successes have in common is told apart first, and only then what is almost right.
        failures = self.windows.batch_size // 2 if index >= self.batches // 3 and len(self._failures) else 0
        episodes = random.choice(self._successes, self.windows.batch_size - failures)
        if failures:
            episodes = np.concatenate([episodes, random.choice(self._failures, failures)])
        return EndingBatch(**vars(self.windows.windows_at(episodes, self._last_steps[episodes])))
