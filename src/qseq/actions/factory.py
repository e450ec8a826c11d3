"""From the JSON form of an action space to its tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from qseq.errors import RequestError

from .base import ActionTokenizer
from .bounds import bounds_from_samples, parse_bounds
from .chunk import ChunkTokens
from .discrete import DiscreteTokens, MultiDiscreteTokens
from .quantile import QuantileBins
from .uniform import UniformBins


def make_tokenizer(
    action_space: Mapping[str, Any],
    *,
    num_bins: int = 64,
    bins: Literal["uniform", "quantile"] = "uniform",
    samples: np.ndarray | Tensor | None = None,
    chunk: int = 1,
) -> ActionTokenizer:
    """The tokenizer of an action space in JSON form.

    Args:
        action_space: `{"type": "box", "low", "high", "shape", "dtype"}`, `{"type": "discrete", "n", "start"}` or
            `{"type": "multi_discrete", "nvec", "start"}`. Bounds may be the strings "inf" and "-inf".
        num_bins: bins of each dimension of a box.
        bins: "uniform", or "quantile" (needs `samples`).
        samples: actions `[num, *shape]` from the data: quantiles are taken from them, and bounds where infinite.
        chunk: consecutive actions that make one decision.

    Raises:
        RequestError: the space is not supported, or its bounds are infinite and there are no samples.
    """
    kind = action_space.get("type")
    try:
        if kind == "box":
            tokenizer = _box_tokenizer(action_space, num_bins, bins, samples)
        elif kind == "discrete":
            tokenizer = DiscreteTokens(action_space["n"], action_space.get("start", 0))
        elif kind == "multi_discrete":
            tokenizer = MultiDiscreteTokens(action_space["nvec"], action_space.get("start", 0))
        else:
            raise RequestError(f"action space: found type {kind!r}, expected box, discrete or multi_discrete")
    except KeyError as error:
        raise RequestError(f"action space of type {kind!r}: {error.args[0]!r} is missing") from error
    return tokenizer if chunk == 1 else ChunkTokens(tokenizer, chunk)


def _box_tokenizer(
    space: Mapping[str, Any], num_bins: int, bins: str, samples: np.ndarray | Tensor | None
) -> ActionTokenizer:
    if bins not in ("uniform", "quantile"):
        raise RequestError(f'action bins: found {bins!r}, expected "uniform" or "quantile"')
    dtype = str(space.get("dtype", "float32"))
    if "float" not in dtype:
        raise RequestError(f"action space: found a box of {dtype}, expected floats; use multi_discrete for integers")
    shape = tuple(int(size) for size in space["shape"])
    low, high = parse_bounds(space["low"], shape), parse_bounds(space["high"], shape)
    array = None if samples is None else np.asarray(samples, dtype=np.float32)
    if array is not None and (array.shape[1:] != shape or len(array) == 0 or not np.isfinite(array).all()):
        raise RequestError(
            f"action samples: found shape {array.shape}, expected finite numbers of shape [num >= 1, *{list(shape)}]"
        )
    if array is None:
        if bins == "quantile":
            raise RequestError("action bins: quantile bins need action samples from the data; found none")
        if not (np.isfinite(low).all() and np.isfinite(high).all()):
            infinite = np.flatnonzero(~(np.isfinite(low) & np.isfinite(high))).tolist()
            raise RequestError(
                f"action space: dimensions {infinite} have infinite bounds, expected finite ones for uniform bins; "
                "pass action samples so that the bounds come from the data, or bound the action space "
                "(gymnasium.wrappers.ClipAction, RescaleAction)"
            )
    else:
        low, high = bounds_from_samples(low, high, array.reshape(len(array), -1).astype(np.float64))
        if bins == "quantile":
            return QuantileBins.fit(array, num_bins, low, high)
    return UniformBins(low, high, num_bins, shape)
