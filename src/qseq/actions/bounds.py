"""Bounds of continuous actions: parsing and checking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qseq.errors import RequestError

FloatArray = NDArray[np.float64]


def parse_bounds(bounds: Any, shape: tuple[int, ...]) -> FloatArray:
    """Numbers or the strings "inf" / "-inf", nested, flat or scalar, to float64 [A] in row-major order of `shape`."""
    size = int(np.prod(shape, dtype=np.int64))
    try:
        array = np.asarray(bounds, dtype=object).astype(np.float64)
    except (TypeError, ValueError) as error:
        raise RequestError(f'action bounds: found {bounds!r}, expected numbers, "inf" or "-inf"') from error
    if array.size not in (1, size):
        raise RequestError(f"action bounds: found {array.size} numbers, expected {size} (shape {list(shape)})")
    return np.broadcast_to(array.reshape(-1), (size,)).copy()


def checked_bounds(
    low: Any, high: Any, num_bins: int, shape: Sequence[int] | None
) -> tuple[tuple[int, ...], FloatArray, FloatArray]:
    """Shape, low [A] and high [A] of bins that can be built; raises RequestError when they cannot."""
    if shape is None:
        shape = np.broadcast_shapes(np.shape(low), np.shape(high))
    shape = tuple(int(size) for size in shape)
    if 0 in shape:
        raise RequestError(
            f"action space: found shape {list(shape)}, expected at least one dimension of size 1 or more"
        )
    low, high = parse_bounds(low, shape), parse_bounds(high, shape)
    if num_bins < 2:
        raise RequestError(f"action bins: found {num_bins}, expected at least 2")
    infinite = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high)))
    if infinite.size:
        raise RequestError(
            f"action bounds: dimensions {infinite.tolist()} are infinite or NaN, expected finite numbers; "
            "bound the action space (gymnasium.wrappers.RescaleAction, ClipAction) or take the bounds from data"
        )
    empty = np.flatnonzero(high <= low)
    if empty.size:
        index = int(empty[0])
        raise RequestError(
            f"action bounds: dimension {index} has low {low[index]} and high {high[index]}, expected low < high; "
            "remove an action dimension that cannot vary"
        )
    return shape, low, high


def bounds_from_samples(low: FloatArray, high: FloatArray, samples: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Replace infinite bounds by the extremes of `samples` [num, A]; a constant dimension gets a little room."""
    least, most = samples.min(axis=0), samples.max(axis=0)
    open_low, open_high = ~np.isfinite(low), ~np.isfinite(high)
    low, high = np.where(open_low, least, low), np.where(open_high, most, high)
    room = np.where(high <= low, 1e-3 * np.maximum(1.0, np.abs(low)), 0.0)
    return np.where(open_low, np.minimum(low, high) - room, low), np.where(
        open_high, np.maximum(high, low) + room, high
    )
