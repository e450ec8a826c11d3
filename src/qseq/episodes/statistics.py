"""Mean, spread and quantiles of each field: what normalisation and bins need."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from qseq.episodes.view import EpisodeView
from qseq.errors import DataError

_ROWS_AT_A_TIME = 8192
_MAX_QUANTILE_VALUES = 50_000_000


@dataclass(frozen=True)
class FieldStatistics:
    """Per dimension, float32 arrays of the field's row shape.

    `std` is 1 where a dimension is constant (its spread is below what float32 can tell from 0), so that
    (x - mean) / std is safe. `q01` and `q99` are the quantiles at .01 and .99.
    """

    mean: np.ndarray
    std: np.ndarray
    min: np.ndarray
    max: np.ndarray
    q01: np.ndarray
    q99: np.ndarray

    def to_dict(self) -> dict[str, Any]:
        """JSON form: nested lists."""
        return {f.name: getattr(self, f.name).tolist() for f in fields(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> FieldStatistics:
        """Read what `to_dict` wrote.

        Raises:
            DataError: a part is missing or not numbers.
        """
        try:
            return cls(**{f.name: np.asarray(values[f.name], dtype=np.float32) for f in fields(cls)})
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"statistics: found {dict(values)!r}, which cannot be read ({error!r})") from error


def compute_statistics(
    view: EpisodeView, names: Sequence[str] | None = None, *, max_rows: int = 200_000, seed: int = 0
) -> dict[str, FieldStatistics]:
    """Statistics of observation fields and of "action".

    Args:
        view: the episodes; observations are those an action was chosen at.
        names: which of them; all of them if None.
        max_rows: larger data sets are sampled without repetition; fewer rows are taken of fields so wide
            (images) that they would not fit into memory.
        seed: of the sample.

    Returns:
        name -> statistics
    """
    if names is None:
        names = (*view.fields, "action")
    return {name: _field(view, name, max_rows, seed) for name in names}


def _field(view: EpisodeView, name: str, max_rows: int, seed: int) -> FieldStatistics:
    width = max(1, int(np.prod(view.schema.columns[name].shape, dtype=np.int64)))
    limit = max(1, min(max_rows, _MAX_QUANTILE_VALUES // width))
    values = view.sample(name, limit, seed)
    low, high = values.min(axis=0), values.max(axis=0)
    # Two passes, in float64 and by parts: exact where the mean is far from 0, without a second copy of the data.
    mean = _sum(values, 0.0, 1) / len(values)
    std = np.sqrt(_sum(values, mean, 2) / len(values))
    constant = (low == high) | (std <= np.finfo(np.float32).eps * np.maximum(np.abs(mean), np.finfo(np.float32).tiny))
    q01, q99 = np.quantile(values.astype(np.float32, copy=False), [0.01, 0.99], axis=0)
    return FieldStatistics(
        *(np.asarray(part, dtype=np.float32) for part in (mean, np.where(constant, 1.0, std), low, high, q01, q99))
    )


def _sum(values: np.ndarray, centre: np.ndarray | float, power: int) -> np.ndarray:
    """Sum over rows of (value - centre) ** power, float64."""
    total = np.zeros(values.shape[1:])
    for first in range(0, len(values), _ROWS_AT_A_TIME):
        part = values[first : first + _ROWS_AT_A_TIME].astype(np.float64) - centre
        total += (part**power).sum(axis=0)
    return total
