"""Actions that are discrete already.

Legend: A action tokens of one decision, K bins of a token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qseq.errors import RequestError

from .base import ActionTokenizer, DeviceTables


class MultiDiscreteTokens(ActionTokenizer):
    """One token for each entry of a multi-discrete action; entry a takes `start[a] .. start[a] + nvec[a] - 1`.

    Entries may have different numbers of bins: `token_mask` [A, K] is then True where a bin exists.
    `nvec` may be nested; its shape is the shape of one action.
    """

    kind = "multi_discrete"

    def __init__(self, nvec: Sequence[Any] | np.ndarray, start: Any = 0) -> None:
        counts = np.asarray(nvec, dtype=np.int64)
        if counts.size == 0 or (counts < 1).any():
            raise RequestError(f"multi-discrete actions: found nvec {counts.tolist()}, expected counts of at least 1")
        try:
            starts = np.broadcast_to(np.asarray(start, dtype=np.int64), counts.shape)
        except ValueError as error:
            raise RequestError(
                f"multi-discrete actions: start {start!r} does not fit nvec {counts.tolist()}"
            ) from error
        self._shape = counts.shape
        self._counts, self._starts = counts, starts
        self._bins = tuple(counts.reshape(-1).tolist())
        self._tables = DeviceTables(
            start=torch.from_numpy(starts.reshape(-1).copy()), last=torch.from_numpy(counts.reshape(-1) - 1)
        )

    @property
    def action_shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def bins_per_token(self) -> tuple[int, ...]:
        return self._bins

    def encode(self, actions: Tensor) -> Tensor:
        values = self._flatten_actions(actions)
        start, last = self._tables.get("start", values.device), self._tables.get("last", values.device)
        return torch.minimum((values.long() - start).clamp_min(0), last)

    def decode(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        return (tokens.long() + self._tables.get("start", tokens.device)).reshape(*tokens.shape[:-1], *self._shape)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "nvec": self._counts.tolist(), "start": self._starts.tolist()}

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> ActionTokenizer:
        return cls(description["nvec"], description["start"])


class DiscreteTokens(MultiDiscreteTokens):
    """A single token of `n` bins for the actions `start .. start + n - 1`; an action has no dimensions: `[...]`."""

    kind = "discrete"

    def __init__(self, n: int, start: int = 0) -> None:
        super().__init__(np.asarray(n), start)

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "n": self._bins[0], "start": int(self._starts)}

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> ActionTokenizer:
        return cls(description["n"], description["start"])
