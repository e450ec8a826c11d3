"""What a network's logits mean: the ways to parameterise a value, each with the loss that fits it.

Legend: B batch, A action tokens of one decision, K bins of a token, `atoms` bins of a value's histogram.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from qseq.errors import ConfigError

from .precision import full_precision


class ValueTransform(Protocol):
    """Logits to values, and the loss between logits and target values.

    `atom_shape` is the shape of the logits of one value: `()` for one logit, `(num_atoms,)` for a histogram. `low` and
    `high` are the range values can take (infinite where unbounded).
    """

    @property
    def atom_shape(self) -> tuple[int, ...]: ...
    @property
    def low(self) -> float: ...
    @property
    def high(self) -> float: ...

    def values(self, logits: Tensor) -> Tensor:
        """Logits [..., *atom_shape] to values [...], in float32."""

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        """Loss of each element: logits [..., *atom_shape], targets [...], weights broadcast to [...]; returns [...]."""


@dataclass(frozen=True)
class BoundedValue:
    """`low + (high - low) * sigmoid(logit)` (Q-Transformer: sparse rewards, so Q is in [0, 1]).

    `loss_kind="mse"` is the squared error in value space. `loss_kind="bce"` is the cross-entropy between the target and
    the value, both as fractions of the range, less the entropy of the target (so that a perfect fit costs 0); it has
    the same minimiser, also for stochastic targets, and its gradient does not vanish where the sigmoid saturates.
    """

    low: float = 0.0
    high: float = 1.0
    loss_kind: Literal["mse", "bce"] = "mse"

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        if self.loss_kind not in ("mse", "bce"):
            raise ConfigError(f'bounded value: found loss {self.loss_kind!r}, expected "mse" or "bce"')

    @property
    def atom_shape(self) -> tuple[int, ...]:
        return ()

    def values(self, logits: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * full_precision(logits).sigmoid()

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        targets = full_precision(targets).clamp(self.low, self.high)
        if self.loss_kind == "mse":
            return _weighted((self.values(logits) - targets).square(), weights)
        logits = full_precision(logits)
        fractions = ((targets - self.low) / (self.high - self.low)).to(logits.dtype)
        entropy = -(torch.xlogy(fractions, fractions) + torch.xlogy(1 - fractions, 1 - fractions))
        cross_entropy = functional.softplus(logits) - fractions * logits
        return _weighted(cross_entropy - entropy, weights)


@dataclass(frozen=True)
class UnboundedValue:
    """The logit is the value; squared error."""

    @property
    def atom_shape(self) -> tuple[int, ...]:
        return ()

    @property
    def low(self) -> float:
        return -math.inf

    @property
    def high(self) -> float:
        return math.inf

    def values(self, logits: Tensor) -> Tensor:
        return full_precision(logits)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        return _weighted((self.values(logits) - full_precision(targets)).square(), weights)


@dataclass(frozen=True)
class CategoricalValue:
    """HL-Gauss: a histogram of the value, fitted by cross-entropy to a Gaussian around the target.

    Farebrother et al. 2024, "Stop Regressing: Training Value Functions via Classification", section 3; sigma is
    `sigma_ratio` widths of an atom. The value is the histogram's mean. The entropy of the target histogram is taken off
    the loss, so that a perfect fit costs 0.

    The histogram reaches `ceil(3 * sigma_ratio)` atoms beyond `low` and `high`: a Gaussian cut off at the end of the
    range has its mean inside it, which would bias every target near 0 upward, by most of an atom in every backup.
    """

    low: float = 0.0
    high: float = 1.0
    num_atoms: int = 101
    sigma_ratio: float = 0.75

    def __post_init__(self) -> None:
        _check_range(self.low, self.high)
        if self.sigma_ratio <= 0:
            raise ConfigError(f"categorical value: found sigma_ratio {self.sigma_ratio}, expected more than 0")
        if self.num_atoms < 2 * self._margin + 2:
            raise ConfigError(
                f"categorical value: found {self.num_atoms} atoms, expected at least {2 * self._margin + 2} "
                f"for sigma_ratio {self.sigma_ratio}"
            )

    @property
    def atom_shape(self) -> tuple[int, ...]:
        return (self.num_atoms,)

    @property
    def _margin(self) -> int:
        return math.ceil(3 * self.sigma_ratio)

    @property
    def width(self) -> float:
        """Width of an atom."""
        return (self.high - self.low) / (self.num_atoms - 2 * self._margin)

    def values(self, logits: Tensor) -> Tensor:
        probabilities = full_precision(logits).softmax(dim=-1)
        # A product and a sum, not a matrix product: autocast would run that in half precision.
        return (probabilities * self._edges(probabilities, offset=0.5)[:-1]).sum(dim=-1)

    def loss(self, logits: Tensor, targets: Tensor, weights: Tensor | None = None) -> Tensor:
        probabilities = self.histogram(targets)
        log_likelihood = (probabilities * full_precision(logits).log_softmax(dim=-1)).sum(dim=-1)
        return _weighted(torch.xlogy(probabilities, probabilities).sum(dim=-1) - log_likelihood, weights)

    def histogram(self, targets: Tensor) -> Tensor:
        """The target histogram [..., atoms] of target values [...]."""
        targets = full_precision(targets).clamp(self.low, self.high)
        edges = self._edges(targets, offset=0.0)
        scaled = (edges - targets.unsqueeze(-1)) / (math.sqrt(2.0) * self.sigma_ratio * self.width)
        cumulative = torch.erf(scaled)
        mass = cumulative[..., -1:] - cumulative[..., :1]
        return cumulative.diff(dim=-1) / mass

    def _edges(self, like: Tensor, offset: float) -> Tensor:
        """The num_atoms + 1 edges of the atoms, moved right by `offset` widths (0.5 makes the first ones centres)."""
        steps = torch.arange(self.num_atoms + 1, device=like.device, dtype=like.dtype)
        return self.low + self.width * (steps + (offset - self._margin))


def make_value_transform(
    kind: Literal["bounded", "unbounded", "categorical"] = "bounded",
    *,
    low: float = 0.0,
    high: float = 1.0,
    loss: Literal["mse", "bce"] = "mse",
    num_atoms: int = 101,
    sigma_ratio: float = 0.75,
) -> ValueTransform:
    """The value parameterisation named in a config. Raises ConfigError for an unknown name or an empty range."""
    if kind == "bounded":
        return BoundedValue(low, high, loss)
    if kind == "unbounded":
        return UnboundedValue()
    if kind == "categorical":
        return CategoricalValue(low, high, num_atoms, sigma_ratio)
    raise ConfigError(f"value: found kind {kind!r}, expected bounded, unbounded or categorical")


def take_tokens(logits: Tensor, tokens_BA: Tensor) -> Tensor:
    """The entries of the bins that were taken: logits [B, A, K, *atom_shape], tokens [B, A], to [B, A, *atom_shape]."""
    index = tokens_BA.reshape(*tokens_BA.shape, 1, *[1] * (logits.ndim - 3))
    return logits.gather(2, index.expand(-1, -1, 1, *logits.shape[3:])).squeeze(2)


def _check_range(low: float, high: float) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"value range: found low {low} and high {high}, expected finite low < high")


def _weighted(losses: Tensor, weights: Tensor | None) -> Tensor:
    return losses if weights is None else losses * weights
