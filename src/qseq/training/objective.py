"""What the trainer asks of a family: an objective that turns a batch into a loss, and a stream of batches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

WHOLE = "loss"
"""In `CountingObjective.counts`: whatever has no entry of its own."""


@dataclass(frozen=True)
class Losses:
    """What an objective returns: the scalar to minimise, and named scalars to log (no gradient flows from them).

    `parts` are addends of the total, with their gradients, that are means over other numbers of things than the rest
    of it is; see `CountingObjective`.
    """

    total: Tensor
    terms: Mapping[str, Tensor] = field(default_factory=dict)
    parts: Mapping[str, Tensor] = field(default_factory=dict)


class Objective(Protocol):
    """batch -> loss. It holds no optimiser and no device, and it logs nothing."""

    def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
        """The loss of one batch. `target` is the moving average of `online`, in eval mode, without gradients."""
        ...


@runtime_checkable
class CountingObjective(Protocol):
    """An objective whose losses are means over something that batches hold unequal numbers of: tokens, moves.

    A mean of means is not the mean: a step of several batches, on one process or on many, would else depend on how
    the same samples are split into batches. The trainer weights each batch by what it counts.
    """

    def counts(self, batch: Any) -> Mapping[str, Tensor]:
        """Name of a part or term of the losses -> over how many things (or what weight) it is a mean; scalars.

        They depend on the batch alone. "loss" stands for everything that is not named; without it, that is a mean over
        samples, of which all batches hold as many.
        """
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
