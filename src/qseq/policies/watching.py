"""What decisions were chosen from, kept where somebody looks on.

Legend: B rows of a batch, A action tokens of a decision, K bins.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor


@dataclass(frozen=True)
class DecisionValues:
    """What one decision was chosen from.

    Attributes:
        values_AK: score of every bin of each action token, given the tokens before it; -inf where there is no bin.
        tokens_A: the bins that were chosen.
    """

    values_AK: np.ndarray
    tokens_A: np.ndarray


class WatchedDecisions:
    """The newest decision of each environment that is looked at; the values of no other are computed."""

    def __init__(self) -> None:
        self._kept: dict[int, DecisionValues | None] = {}

    def only(self, environment_ids: Collection[int]) -> None:
        """Look at these from here on."""
        self._kept = {environment: self._kept.get(environment) for environment in environment_ids}

    def __getitem__(self, environment_id: int) -> DecisionValues | None:
        return self._kept.get(environment_id)

    def keep(self, environment_ids: Sequence[int], tokens_BA: Tensor, values: Callable[[list[int]], Tensor]) -> None:
        """A decision was made; `values` gives those of some of its rows, `[len(rows), A, K]`."""
        if rows := [row for row, environment in enumerate(environment_ids) if environment in self._kept]:
            for row, values_AK in zip(rows, values(rows).float().cpu().numpy(), strict=True):
                self._kept[environment_ids[row]] = DecisionValues(values_AK, tokens_BA[row].cpu().numpy())
