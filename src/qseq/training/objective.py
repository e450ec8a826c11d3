"""What the trainer asks of a family: an objective that turns a batch into a loss, and a stream of batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True)
class Losses:
    """What an objective returns: the scalar to minimise, and named scalars to log (no gradient flows from them)."""

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """batch -> loss. It holds no optimiser and no device, and it logs nothing."""

    def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
        """The loss of one batch. `target` is the moving average of `online`, in eval mode, without gradients."""
        ...


@runtime_checkable
class StatefulObjective(Protocol):
    """An objective that remembers something between steps, so that checkpoints have to hold it."""

    def state_tensors(self) -> Mapping[str, Tensor]:
        """What it remembers after a step."""
        ...

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `state_tensors` gave; the tensors are on the CPU."""
        ...


class BatchSource(Protocol):
    """An endless stream of batches: which one comes at an index depends on nothing but the index."""

    def batch_at(self, index: int) -> Any:
        """The `index`-th batch: a tensor, a mapping or tuple of them, or anything with a `.to(device)`."""
        ...
