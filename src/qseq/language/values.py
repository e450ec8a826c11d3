"""The unit in which a text's values are learnt: a share of the range that returns can have."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from qseq.errors import ConfigError


@dataclass(frozen=True)
class ReturnRange:
    """Returns lie in [low, high]; networks learn `(return - low) / (high - low)`, so losses have no unit."""

    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ConfigError(
                f"objective.minimum_return, objective.maximum_return: found {self.low} and {self.high}, "
                "expected finite numbers, the first below the second"
            )

    @property
    def width(self) -> float:
        return self.high - self.low

    def to_unit(self, returns: Tensor) -> Tensor:
        """Returns to shares of the range."""
        return (returns - self.low) / self.width

    def from_unit(self, shares: Tensor) -> Tensor:
        """Shares of the range to returns."""
        return self.low + self.width * shares
