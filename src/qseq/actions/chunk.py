"""Several consecutive actions as one decision.

Legend: A action tokens of one decision, K bins of a token, h steps of a chunk.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qseq.errors import RequestError

from .base import ActionTokenizer


class ChunkTokens(ActionTokenizer):
    """`steps` (h) actions `[..., h, *shape]` as one sequence of `h * A` tokens, earliest action first."""

    kind = "chunk"

    def __init__(self, base: ActionTokenizer, steps: int) -> None:
        if steps < 1:
            raise RequestError(f"action chunk: found {steps} steps, expected at least 1")
        self.base, self.steps = base, int(steps)

    @property
    def action_shape(self) -> tuple[int, ...]:
        return (self.steps, *self.base.action_shape)

    @property
    def bins_per_token(self) -> tuple[int, ...]:
        return self.base.bins_per_token * self.steps

    def encode(self, actions: Tensor) -> Tensor:
        # Checks the whole shape; the base tokenizer sees the chunk's steps as one more leading dimension.
        self._flatten_actions(actions)
        return self.base.encode(actions).flatten(-2)

    def decode(self, tokens: Tensor) -> Tensor:
        self._check_tokens(tokens)
        return self.base.decode(tokens.reshape(*tokens.shape[:-1], self.steps, self.base.num_tokens))

    def to_dict(self) -> dict[str, Any]:
        return {"kind": self.kind, "base": self.base.to_dict(), "steps": self.steps}

    @classmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> ChunkTokens:
        return cls(ActionTokenizer.from_dict(description["base"]), description["steps"])
