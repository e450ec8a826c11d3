"""Batches of the last steps of episodes, before those of all steps and among them."""

from __future__ import annotations

from dataclasses import dataclass
from dataclasses import fields as dataclass_fields

import numpy as np
import torch

from qseq.episodes import EpisodeView, WindowBatch, Windows
from qseq.errors import RequestError


@dataclass(frozen=True)
class EndingBatch(WindowBatch):
    """Windows at the last steps of episodes: what these led to is to be looked at, and nothing else."""


class EndingsFirst:
    """The first so many batches are `EndingBatch`es, all others those of `windows`.

    The first third of these hold successes only, which is learnt in a fraction of the steps; half of the others are
    failures, as far as there are any. Of the batches of all steps a `share` is exchanged for last steps of successes.

    Which episodes are drawn is a pure function of the seed and the batch's index, so a resumed run sees the same ones.

    Args:
        windows: of the view.
        view: the episodes.
        batches: how many.
        share: of the windows of every other batch.
        seed: of what is drawn.

    Raises:
        RequestError: no episode is a success.
    """

    def __init__(self, windows: Windows, view: EpisodeView, *, batches: int, seed: int, share: float = 0.0) -> None:
        self.windows = windows
        self.fields = windows.fields
        self.batches = batches
        self.exchanged = round(share * windows.batch_size)
        self.seed = seed
        self._successes, self._failures = (np.flatnonzero(view.success == outcome) for outcome in (1, 0))
        self._last_steps = view.lengths - 1
        for name, found in (("objective.matching_steps", batches), ("data.endings_share", share)):
            if found and not len(self._successes):
                raise RequestError(
                    f"{name}: found {found}, expected 0: none of the {view.num_episodes} episodes is a success"
                )

    def batch_at(self, index: int) -> WindowBatch:
        """The index-th batch of the endless stream."""
        random = np.random.default_rng((self.seed, index))
        if index >= self.batches:
            return self._with_endings(self.windows.batch_at(index), random)
        # What no two successes have in common is told apart first, and only then what is almost right.
        failures = self.windows.batch_size // 2 if index >= self.batches // 3 and len(self._failures) else 0
        episodes = random.choice(self._successes, self.windows.batch_size - failures)
        if failures:
            episodes = np.concatenate([episodes, random.choice(self._failures, failures)])
        return EndingBatch(**vars(self._at_the_end(episodes)))

    def _with_endings(self, batch: WindowBatch, random: np.random.Generator) -> WindowBatch:
        if not self.exchanged:
            return batch
        endings = self._at_the_end(random.choice(self._successes, self.exchanged))
        return _exchanged(batch, endings)

    def _at_the_end(self, episodes: np.ndarray) -> WindowBatch:
        return self.windows.windows_at(episodes, self._last_steps[episodes])


def _exchanged(batch: WindowBatch, others: WindowBatch) -> WindowBatch:
    """The batch with its last windows exchanged for others."""
    kept = len(batch) - len(others)
    joined = {
        field.name: torch.cat([getattr(batch, field.name)[:kept], getattr(others, field.name)])
        for field in dataclass_fields(batch)
        if field.name != "frames"
    }
    frames = {name: torch.cat([frames[:kept], others.frames[name]]) for name, frames in batch.frames.items()}
    return WindowBatch(frames=frames, **joined)
