"""Continuous actions in bins of equal width (Q-Transformer, Chebotar et al. 2023, section 4.1: "uniform bins").

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
from .bounds import checked_bounds


class UniformBins(ActionTokenizer):
    """Bin k of dimension a is `low[a] + [k, k + 1) * width[a]`; the last bin also holds `high[a]`.

    Decoding gives the centre of the bin, so the error is at most half a width.
    `low` and `high` are scalars or hold one number per dimension; `shape` is the shape of one action.
    """

    kind = "uniform"

    def __init__(
        self,
        low: float | Sequence[float] | np.ndarray,
        high: float | Sequence[float] | np.ndarray,
        num_bins: int,
        shape: Sequence[int] | None = None,
    ) -> None:
        self._shape, self.low, self.high = checked_bounds(low, high, num_bins, shape)
        self._bins = int(num_bins)
        self.width = (self.high - self.low) / num_bins
        self._tables = DeviceTables(
            low=torch.from_numpy(self.low), width=torch.from_numpy(self.width), scale=torch.from_numpy(1.0 / self.width)
        )
        every_token = torch.arange(num_bins).unsqueeze(-1).expand(num_bins, self.num_tokens)
        if not torch.equal(self.encode(self.decode(every_token)), every_token):
            raise RequestError(
                f"action bins: {num_bins} bins between {self.low.tolist()} and {self.high.tolist()} are narrower than "
                "float32 can tell apart; use fewer bins or centre the action range on zero"
            )

    @property
    def action_shape(self) -> tuple[int, ...]:
        return self._shape

    @property
    def bins_per_token(self) -> tuple[int, ...]:
        return (self._bins,) * len(self.low)

    def encode(self, actions: Tensor) -> Tensor:
        values = self._flatten_actions(actions)
        low, scale = self._tables.get("low", values.device), self._tables.get("scale", values.device)
        # Clamp before the cast: casting infinity to an integer is undefined. The top bound belongs to the last bin.
        position = ((values.to(low.dtype) - low) * scale).clamp(0, self._bins - 1)
        return position.long()

    def decode(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        low, width = self._tables.get("low", tokens.device), self._tables.get("width", tokens.device)
        values = low + (tokens.to(low.dtype) + 0.5) * width
        return values.float().reshape(*tokens.shape[:-1], *self._shape)

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "low": self.low.tolist(),
            "high": self.high.tolist(),
            "num_bins": self._bins,
            "shape": list(self._shape),
        }

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> UniformBins:
        return cls(description["low"], description["high"], description["num_bins"], description["shape"])
