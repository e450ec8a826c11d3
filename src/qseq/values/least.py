"""The value two critics agree on: the smaller of theirs.

Legend: C critics.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .heads import ValueTransform


@dataclass(frozen=True)
class LeastOf:
    """Logits of several critics, side by side in the first dimension of an atom (Fujimoto et al. 2018, equation 10).

    The value is the smallest of theirs, which damps the overestimation of a maximum over bins. The loss is the mean of
    theirs, each on its own prediction: were it the loss of the smallest value, the other critic would not learn.
    """

    base: ValueTransform
    critics: int = 2

    @property
    def atom_shape(self) -> tuple[int, ...]:
        return (self.critics, *self.base.atom_shape)

    @property
    def low(self) -> float:
        return self.base.low

    @property
    def high(self) -> float:
        return self.base.high

    def values(self, logits: Tensor) -> Tensor:
        return self.base.values(logits).amin(-1)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        losses = self.base.loss(logits, targets.unsqueeze(-1)).mean(-1)
        return losses if weights is None else losses * weights
