"""Between Gymnasium spaces as Minari stores them and the flat fields of an episode store.

Nested observation dictionaries and tuples become fields with "/" in their names; text is handled apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from qseq.episodes.schema import FieldSpec
from qseq.errors import DataError

STATE = "state"
"""The name of the one field of an observation that has no names."""


def action_space_to_json(space: Any) -> dict[str, Any]:
    """The JSON form of a Gymnasium action space.

    Raises:
        DataError: not a Box, Discrete, MultiDiscrete or MultiBinary.
    """
    from gymnasium import spaces

    if isinstance(space, spaces.Box):
        return {
            "type": "box",
            "low": space.low,
            "high": space.high,
            "shape": list(space.shape),
            "dtype": np.dtype(space.dtype).name,
        }
    if isinstance(space, spaces.Discrete):
        return {"type": "discrete", "n": int(space.n), "start": int(space.start)}
    if isinstance(space, spaces.MultiDiscrete):
        return {"type": "multi_discrete", "nvec": space.nvec.tolist(), "start": space.start.tolist()}
    if isinstance(space, spaces.MultiBinary):
        nvec = np.full(space.shape, 2)
        return {"type": "multi_discrete", "nvec": nvec.tolist(), "start": (nvec - 2).tolist()}
    raise DataError(f"action space: found {space}, expected Box, Discrete, MultiDiscrete or MultiBinary")


def action_space_from_json(space: dict[str, Any]) -> Any:
    """The Gymnasium action space of a canonical JSON form."""
    from gymnasium import spaces

    if space["type"] == "box":
        dtype = np.dtype(space["dtype"])
        low, high = (np.vectorize(float, otypes=[np.float64])(space[key]) for key in ("low", "high"))
        shape = tuple(space["shape"])
        return spaces.Box(low.astype(dtype).reshape(shape), high.astype(dtype).reshape(shape), dtype=dtype.type)
    if space["type"] == "discrete":
        return spaces.Discrete(space["n"], start=space["start"])
    return spaces.MultiDiscrete(np.array(space["nvec"]), start=np.array(space["start"]))


def flatten_observations(values: Any, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, list[str]]]:
    """One episode's observations -> (arrays by field name, texts by field name)."""
    if isinstance(values, dict):
        parts: list[tuple[str, Any]] = list(values.items())
    elif isinstance(values, tuple):
        parts = [(str(i), value) for i, value in enumerate(values)]
    else:
        name = prefix or STATE
        if isinstance(values, list) and all(isinstance(value, str) for value in values):
            return {}, {name: values}
        return {name: np.asarray(values)}, {}
    arrays: dict[str, np.ndarray] = {}
    texts: dict[str, list[str]] = {}
    for key, value in parts:
        below_arrays, below_texts = flatten_observations(value, f"{prefix}/{key}" if prefix else key)
        arrays |= below_arrays
        texts |= below_texts
    return arrays, texts


def nest(values: dict[str, Any]) -> Any:
    """Fields with "/" in their names -> nested dictionaries; a lone "state" -> its value.

    Raises:
        DataError: one field's name is the beginning of another's, as "arm" of "arm/joint".
    """
    if list(values) == [STATE]:
        return values[STATE]
    result: dict[str, Any] = {}
    for name, value in values.items():
        *path, last = name.split("/")
        place = result
        for key in path:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise DataError(f"field '{name}': another field is named like the beginning of it")
        if last in place:
            raise DataError(f"field '{name}': another field is named like the beginning of it")
        place[last] = value
    return result


def observation_space(fields: dict[str, FieldSpec]) -> Any:
    """A Gymnasium space for these fields; their bounds are those of the dtype, for a store keeps no others."""
    from gymnasium import spaces

    def build(value: Any) -> Any:
        if isinstance(value, dict):
            return spaces.Dict({key: build(below) for key, below in value.items()})
        return value

    return build(nest({name: _box(spec) for name, spec in fields.items()}))


def _box(spec: FieldSpec) -> Any:
    from gymnasium import spaces

    dtype = exported_dtype(spec)
    if dtype.kind == "f":
        return spaces.Box(-np.inf, np.inf, spec.shape, dtype.type)
    limits = np.iinfo(dtype)
    return spaces.Box(limits.min, limits.max, spec.shape, dtype.type)


def exported_dtype(spec: FieldSpec) -> np.dtype[Any]:
    """The dtype in a Minari data set: a Box has no booleans."""
    dtype = np.dtype(spec.dtype)
    return np.dtype(np.uint8) if dtype.kind == "b" else dtype
