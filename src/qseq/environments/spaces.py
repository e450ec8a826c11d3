"""Action spaces as JSON and back, so that data sets and policies can carry them without Gymnasium objects."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np

from qseq.errors import RequestError

Json = dict[str, Any]


def space_to_json(space: gym.Space[Any]) -> Json:
    """The JSON form of a Box, Discrete or MultiDiscrete space.

    A box is ``{"type": "box", "low": [...], "high": [...], "shape": [...], "dtype": "float32"}`` (nested lists follow
    the shape, infinite bounds are the strings "inf" and "-inf"); the others are ``{"type": "discrete", "n", "start"}``
    and ``{"type": "multi_discrete", "nvec", "start"}``.

    Raises:
        RequestError: the space is of another type.
    """
    if isinstance(space, gym.spaces.Box):
        return {
            "type": "box",
            "low": _bounds_to_json(space.low.tolist()),
            "high": _bounds_to_json(space.high.tolist()),
            "shape": list(space.shape),
            "dtype": str(np.dtype(space.dtype)),
        }
    if isinstance(space, gym.spaces.Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, gym.spaces.MultiDiscrete):
        return {"type": "multi_discrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    raise RequestError(
        f"action space {space} is not supported: expected Box, Discrete or MultiDiscrete; "
        "wrap the environment so that its actions are one of these"
    )


def space_from_json(description: Mapping[str, Any]) -> gym.Space[Any]:
    """The Gymnasium space that `space_to_json` described.

    Raises:
        RequestError: the description is not one that `space_to_json` writes.
    """
    kind = description.get("type")
    try:
        if kind == "box":
            shape = tuple(int(side) for side in description["shape"])
            dtype = np.dtype(description.get("dtype", "float32"))
            low = np.broadcast_to(np.asarray(_bounds_from_json(description["low"]), dtype=np.float64), shape)
            high = np.broadcast_to(np.asarray(_bounds_from_json(description["high"]), dtype=np.float64), shape)
            return gym.spaces.Box(low.astype(dtype), high.astype(dtype), shape, dtype.type)
        if kind == "discrete":
            return gym.spaces.Discrete(int(description["n"]), start=int(description.get("start", 0)))
        if kind == "multi_discrete":
            nvec = np.asarray(description["nvec"], dtype=np.int64)
            start = np.asarray(description.get("start", np.zeros_like(nvec)), dtype=np.int64)
            return gym.spaces.MultiDiscrete(nvec, start=start)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise RequestError(f"action space {dict(description)} cannot be read: {error!r}") from error
    raise RequestError(f"action space has type {kind!r}: expected 'box', 'discrete' or 'multi_discrete'")


def _bounds_to_json(value: Any) -> Any:
    if isinstance(value, list):
        return [_bounds_to_json(item) for item in value]
    # JSON has no infinity; the strings are read back by float().
    if isinstance(value, float) and math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return value


def _bounds_from_json(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_bounds_from_json(item) for item in value]
    return float(value)
