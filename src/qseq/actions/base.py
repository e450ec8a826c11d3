"""The interface every action tokenizer offers.

Legend: A action tokens of one decision, K bins of a token (the largest count), `...` any leading (batch) dimensions.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from qseq.errors import DataError, RequestError


class ActionTokenizer(ABC):
    """Maps actions `[..., *action_shape]` to tokens `[..., A]` and back.

    Encoding a decoded token gives the same token, for every token. Actions outside the bounds are clamped on encoding.
    Tokens are int64 and always within `0 .. bins_per_token[a] - 1`.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, Callable[[Mapping[str, Any]], ActionTokenizer]]] = {}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "kind" in cls.__dict__:
            ActionTokenizer._kinds[cls.kind] = cls._from_dict

    @property
    @abstractmethod
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action."""

    @property
    @abstractmethod
    def bins_per_token(self) -> tuple[int, ...]:
        """Number of bins of each of the A tokens."""

    @abstractmethod
    def encode(self, actions: Tensor) -> Tensor:
        """Actions `[..., *action_shape]` to int64 tokens `[..., A]`."""

    @abstractmethod
    def decode(self, tokens: Tensor) -> Tensor:
        """Tokens `[..., A]` to actions `[..., *action_shape]`, in the units of the action space."""

    @abstractmethod
    def to_dict(self) -> dict[str, Any]:
        """A JSON-safe description from which `from_dict` rebuilds the same tokenizer."""

    @classmethod
    @abstractmethod
    def _from_dict(cls, description: Mapping[str, Any]) -> ActionTokenizer: ...

    @property
    def num_tokens(self) -> int:
        """A: tokens of one decision."""
        return len(self.bins_per_token)

    @property
    def num_bins(self) -> int:
        """K: the largest number of bins of any token."""
        return max(self.bins_per_token)

    @property
    def token_mask(self) -> Tensor | None:
        """Bool [A, K], True where a bin exists; None when every token has K bins."""
        if len(set(self.bins_per_token)) == 1:
            return None
        return torch.arange(self.num_bins) < torch.tensor(self.bins_per_token).unsqueeze(-1)

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> ActionTokenizer:
        """Rebuild the tokenizer that `to_dict` described. Raises RequestError for an unknown kind."""
        kind = description.get("kind")
        if kind not in ActionTokenizer._kinds:
            known = ", ".join(sorted(ActionTokenizer._kinds))
            raise RequestError(f"action tokenizer: found kind {kind!r}, expected one of: {known}")
        return ActionTokenizer._kinds[kind](description)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionTokenizer) and self.to_dict() == other.to_dict()

    def __hash__(self) -> int:
        return hash((self.kind, self.bins_per_token))

    def __repr__(self) -> str:
        return f"{type(self).__name__}(action_shape={self.action_shape}, bins_per_token={self.bins_per_token})"

    def _flatten_actions(self, actions: Tensor) -> Tensor:
        """`[..., *action_shape]` to `[..., A]`, after checking the shape."""
        shape = self.action_shape
        leading = actions.ndim - len(shape)
        if leading < 0 or tuple(actions.shape[leading:]) != shape:
            raise DataError(
                f"actions: found shape {tuple(actions.shape)}, expected [..., {', '.join(map(str, shape))}]"
            )
        # Reading the answer of a NaN check would stall an accelerator; there the store's own verification has to do.
        if actions.device.type == "cpu" and actions.is_floating_point() and bool(actions.isnan().any()):
            raise DataError("actions: found NaN, expected numbers")
        return actions.reshape(*actions.shape[:leading], self.num_tokens)

    def _check_tokens(self, tokens: Tensor) -> None:
        if tokens.ndim < 1 or tokens.shape[-1] != self.num_tokens:
            raise DataError(f"action tokens: found shape {tuple(tokens.shape)}, expected [..., {self.num_tokens}]")


class DeviceTables:
    """Constant tables that follow the device of the tensors they are used with, copied there once."""

    def __init__(self, **tables: Tensor) -> None:
        self._tables: dict[tuple[str, torch.device], Tensor] = {}
        self._originals = tables

    def get(self, name: str, device: torch.device) -> Tensor:
        key = (name, device)
        if key not in self._tables:
            table = self._originals[name]
            # Apple's accelerator has no float64.
            dtype = torch.float32 if device.type == "mps" and table.dtype == torch.float64 else table.dtype
            self._tables[key] = table.to(device=device, dtype=dtype)
        return self._tables[key]
