"""Which step of a data set comes at which position of the endless stream: a pure function of (seed, position).

So a run resumes by counting, and workers and ranks share no state. Steps are counted through the episodes of a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from qseq.episodes.order import Permutation
from qseq.errors import RequestError

_ROUND = 4096
_SEED_STEP = 0x9E3779B97F4A7C15


class StepOrder(Protocol):
    """Positions, int64 [B] and consecutive, to steps, int64 [B]."""

    def __call__(self, positions: np.ndarray) -> np.ndarray: ...


class StepsInOrder:
    """Every step in the order of the view, again and again."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        steps: np.ndarray = positions % self._size
        return steps


class ShuffledSteps:
    """Every step once an epoch, in another random order each."""

    def __init__(self, size: int, seed: int) -> None:
        self._size = size
        self._seed = seed
        self._last: tuple[int, Permutation] | None = None

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        epochs, within = np.divmod(positions, self._size)
        first, last = int(epochs[0]), int(epochs[-1])
        if first == last:
            return self._permutation(first)(within)
        return np.concatenate([self._permutation(epoch)(within[epochs == epoch]) for epoch in range(first, last + 1)])

    def _permutation(self, epoch: int) -> Permutation:
        if self._last is None or self._last[0] != epoch:
            self._last = (epoch, Permutation(self._size, self._seed, epoch))
        return self._last[1]


class MixedSteps:
    """The steps of several groups of episodes, each group drawn in proportion to its weight.

    Of 4096 consecutive positions (counted from 0) group k has `round(4096 * share)`, scattered at random; its m-th
    position gives the m-th step of its own shuffled stream, so within a group every step comes once before any comes
    again.

    Args:
        lengths: int64 [episodes], steps of each.
        groups: int64 [episodes].
        weights: of each group, at least 0; a group with a weight has a step.
        seed: of the orders.

    Raises:
        RequestError: a weight is so small that its group would never come.
    """

    def __init__(self, lengths: np.ndarray, groups: np.ndarray, weights: Sequence[float], seed: int) -> None:
        starts = np.cumsum(lengths) - lengths
        share = np.array(weights, dtype=np.float64) / np.sum(weights)
        self._round_ends = np.rint(_ROUND * np.cumsum(share)).astype(np.int64)
        if (np.diff(self._round_ends, prepend=0)[share > 0] == 0).any():
            raise RequestError(
                f"weights: found {list(weights)}, expected shares of at least 1 of {_ROUND} windows each"
            )
        self._rounds = ShuffledSteps(_ROUND, seed)
        self._streams: list[ShuffledSteps | None] = []
        self._ends, self._shifts = [], []
        for number in range(len(weights)):
            episodes = np.flatnonzero(groups == number)
            ends = np.cumsum(lengths[episodes])
            # From the steps counted through the group's episodes to those counted through all.
            self._shifts.append(starts[episodes] - (ends - lengths[episodes]))
            self._ends.append(ends)
            # Each group has an order of its own, and none that another seed nearby gives.
            own = (seed + (number + 1) * _SEED_STEP) % 2**63
            self._streams.append(ShuffledSteps(int(ends[-1]), own) if len(ends) else None)

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        rounds, places = positions // _ROUND, self._rounds(positions)
        groups = np.searchsorted(self._round_ends, places, side="right")
        steps = np.empty_like(positions)
        for number, stream in enumerate(self._streams):
            mine = np.flatnonzero(groups == number)
            if not len(mine) or stream is None:
                continue
            first = int(self._round_ends[number - 1]) if number else 0
            turns = rounds[mine] * (int(self._round_ends[number]) - first) + places[mine] - first
            # Places are scattered within a round: the streams count upwards.
            order = np.argsort(turns)
            within = np.empty_like(turns)
            within[order] = stream(turns[order])
            episodes = np.searchsorted(self._ends[number], within, side="right")
            steps[mine] = within + self._shifts[number][episodes]
        return steps
