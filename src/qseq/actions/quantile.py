"""Continuous actions in bins that hold equal shares of the data.

Legend: A action tokens of one decision, K bins of a token.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from qseq.errors import DataError, RequestError

from .base import ActionTokenizer, DeviceTables
from .bounds import checked_bounds

Float32Array = NDArray[np.float32]


class QuantileBins(ActionTokenizer):
    """Bin k of dimension a is `[edges[a, k], edges[a, k + 1])`, the last one closed; decoding gives `centres[a, k]`.

    The centre lies in its own bin, so the error is at most the width of the bin. Use `fit` to build one from data.

    Args:
        edges: [A, K + 1], strictly increasing in float32.
        centres: [A, K], the value each bin decodes to.
        shape: shape of one action.
    """

    kind = "quantile"

    def __init__(
        self,
        edges: Sequence[Sequence[float]] | np.ndarray,
        centres: Sequence[Sequence[float]] | np.ndarray,
        shape: Sequence[int],
    ) -> None:
        # Everything is kept in float32, the precision of stored actions: comparisons are then exact at every edge.
        self.edges: Float32Array = np.asarray(edges, dtype=np.float32)
        self.centres: Float32Array = np.asarray(centres, dtype=np.float32)
        self._shape = tuple(int(size) for size in shape)
        tokens = int(np.prod(self._shape, dtype=np.int64))
        if self.centres.ndim != 2 or self.edges.shape != (tokens, self.centres.shape[1] + 1):
            raise RequestError(
                f"quantile bins: found edges {self.edges.shape} and centres {self.centres.shape}, "
                f"expected [{tokens}, K + 1] and [{tokens}, K]"
            )
        inside = (self.centres >= self.edges[:, :-1]) & (self.centres < self.edges[:, 1:])
        inside[:, -1] |= self.centres[:, -1] == self.edges[:, -1]
        if not (np.diff(self.edges, axis=1) > 0).all() or not inside.all():
            raise RequestError("quantile bins: expected increasing edges and every centre within its own bin")
        self._tables = DeviceTables(
            inner=torch.from_numpy(self.edges[:, 1:-1].copy()), centres=torch.from_numpy(self.centres)
        )

    @classmethod
    def fit(
        cls,
        samples: np.ndarray | Tensor,
        num_bins: int,
        low: float | Sequence[float] | np.ndarray,
        high: float | Sequence[float] | np.ndarray,
    ) -> QuantileBins:
        """Bins with edges at the quantiles of `samples` [num, *action_shape]; the outermost edges are the bounds.

        Where many samples are equal several quantiles coincide: they make one edge, and the widest bins are halved
        until there are `num_bins` again, so every bin has a positive width. A bin decodes to the median of its samples
        (an action that was really taken), or to its middle when it has none.
        """
        array = np.asarray(samples, dtype=np.float32)
        if array.shape[:1] in ((), (0,)) or not np.isfinite(array).all():
            raise DataError(f"quantile bins: found samples of shape {array.shape}, expected finite [num >= 1, *shape]")
        shape, lows, highs = checked_bounds(low, high, num_bins, array.shape[1:])
        columns = array.reshape(len(array), -1).T
        fitted = [
            _fit_dimension(np.sort(column), num_bins, np.float32(lows[index]), np.float32(highs[index]))
            for index, column in enumerate(columns)
        ]
        return cls(np.stack([edges for edges, _ in fitted]), np.stack([centres for _, centres in fitted]), shape)

    @property
    def action_shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def bins_per_token(self) -> tuple[int, ...]:
        tokens, bins = self.centres.shape
        return (int(bins),) * int(tokens)

    def encode(self, actions: Tensor) -> Tensor:
        values = self._flatten_actions(actions).float()
        inner = self._tables.get("inner", values.device)
        by_dimension = values.reshape(-1, self.num_tokens).T.contiguous()
        tokens = torch.searchsorted(inner, by_dimension, right=True)
        return tokens.T.reshape(values.shape)

    def decode(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        centres = self._tables.get("centres", tokens.device)
        values = centres[torch.arange(self.num_tokens, device=tokens.device), tokens]
        return values.reshape(*tokens.shape[:-1], *self._shape)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "edges": self.edges.tolist(),
            "centres": self.centres.tolist(),
            "shape": list(self._shape),
        }

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> QuantileBins:
        return cls(description["edges"], description["centres"], description["shape"])


def _fit_dimension(
    ordered: Float32Array, num_bins: int, low: np.float32, high: np.float32
) -> tuple[Float32Array, Float32Array]:
    """Edges [K + 1] and centres [K] for sorted samples of one dimension."""
    ordered = np.clip(ordered, low, high)
    quantiles = np.quantile(ordered, np.arange(1, num_bins) / num_bins).astype(np.float32)
    quantiles = quantiles[(quantiles > low) & (quantiles < high)]
    edges = _split_widest(np.unique(np.concatenate([[low], quantiles, [high]])).astype(np.float32), num_bins)
    first = np.searchsorted(ordered, edges[:-1], side="left")
    last = np.append(first[1:], len(ordered))
    middles = _middle(edges[:-1], edges[1:])
    medians = ordered[np.clip((first + last) // 2, 0, len(ordered) - 1)]
    return edges, np.where(last > first, medians, middles)


def _middle(left: Float32Array, right: Float32Array) -> Float32Array:
    """The middle in float32, never above the true one, so that it stays below `right`."""
    middle = ((left.astype(np.float64) + right.astype(np.float64)) / 2).astype(np.float32)
    return np.where(middle >= right, left, middle).astype(np.float32)


def _split_widest(edges: Float32Array, num_bins: int) -> Float32Array:
    """Halve the widest bins until there are `num_bins`."""
    heap = [(float(left) - float(right), float(left), float(right)) for left, right in itertools.pairwise(edges)]
    heapq.heapify(heap)
    while len(heap) < num_bins:
        _, left, right = heapq.heappop(heap)
        middle = float(np.float32((left + right) / 2))
        if not left < middle < right:
            raise RequestError(
                f"quantile bins: {num_bins} bins between {edges[0]} and {edges[-1]} are narrower than float32 can tell "
                "apart; use fewer bins"
            )
        heapq.heappush(heap, (left - middle, left, middle))
        heapq.heappush(heap, (middle - right, middle, right))
    return np.asarray([*sorted(left for _, left, _ in heap), float(edges[-1])], dtype=np.float32)
