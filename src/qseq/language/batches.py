"""An endless stream of batches of texts of like lengths; which comes at an index depends on nothing but the index."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qseq.language.batch import TextBatch, TokenisedText, collate

GROUP = 16
"""Batches whose texts are sorted by length together: each then holds texts of like lengths, and little padding."""


class TextBatches:
    """Every text once an epoch, in an order that depends on seed and epoch; every batch is full.

    Args:
        discount, per, minimum_return, pad_token: see `collate`.
    """

    def __init__(
        self,
        texts: Sequence[TokenisedText],
        *,
        batch_size: int,
        seed: int,
        discount: float,
        per: Literal["turn", "token"],
        minimum_return: float,
        pad_token: int,
    ) -> None:
        self.texts = texts
        self.batch_size = batch_size
        self.seed = seed
        self.discount, self.per, self.minimum_return = discount, per, minimum_return
        self.pad_token = pad_token
        self._lengths = np.array([len(text.input_ids) for text in texts])
        self._order = lru_cache(maxsize=2)(self._shuffled)
        self._group = lru_cache(maxsize=4)(self._sorted_group)

    def batch_at(self, index: int) -> TextBatch:
        """The `index`-th batch."""
        return collate(
            [self.texts[row] for row in self.rows_at(index)],
            discount=self.discount,
            per=self.per,
            minimum_return=self.minimum_return,
            pad_token=self.pad_token,
        )

    def rows_at(self, index: int) -> NDArray[np.int64]:
        """The texts of the `index`-th batch."""
        group, place = divmod(index, GROUP)
        rows: NDArray[np.int64] = self._group(group)[place]
        return rows

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.texts))

    def _sorted_group(self, group: int) -> NDArray[np.int64]:
        """The rows `[GROUP, batch_size]` of a group of batches, the batches in an order of their own."""
        size = GROUP * self.batch_size
        epochs, offsets = np.divmod(np.arange(group * size, (group + 1) * size), len(self.texts))
        rows = np.concatenate([self._order(int(epoch))[offsets[epochs == epoch]] for epoch in np.unique(epochs)])
        rows = rows[np.argsort(self._lengths[rows], kind="stable")].reshape(GROUP, self.batch_size)
        return rows[np.random.default_rng([self.seed, group, 1]).permutation(GROUP)]
