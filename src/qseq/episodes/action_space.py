"""Check actions against a space written in JSON.

    {"type": "box", "low": [...], "high": [...], "shape": [4], "dtype": "float32"}
    {"type": "discrete", "n": 5, "start": 0}
    {"type": "multi_discrete", "nvec": [3, 4], "start": [0, 0]}

JSON has no infinity: an open bound is the string "inf" or "-inf". `low` and `high` may also be one number for all
dimensions; the canonical form (`to_json`) writes them in full.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qseq.errors import DataError

TOLERANCE = 1e-6
"""How far a Box action may lie outside its bounds: rounding to float32 moves values by less."""


@dataclass(frozen=True)
class ActionSpace:
    """A parsed action space: `low` and `high` have the action's shape and are inclusive."""

    kind: str
    shape: tuple[int, ...]
    dtype: str
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def from_json(cls, space: Mapping[str, Any]) -> ActionSpace:
        """Parse the JSON form.

        Raises:
            DataError: the type is unknown, or a bound or count cannot be read.
        """
        try:
            return _parse(space)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DataError(f"action space: found {dict(space)!r}, which cannot be read ({error!r})") from error

    def to_json(self) -> dict[str, Any]:
        """The canonical JSON form: equal spaces give equal dictionaries."""
        if self.kind == "box":
            return {
                "type": "box",
                "low": _bounds_to_json(self.low),
                "high": _bounds_to_json(self.high),
                "shape": list(self.shape),
                "dtype": self.dtype,
            }
        counts = (self.high - self.low + 1).tolist()
        if self.kind == "discrete":
            return {"type": "discrete", "n": counts, "start": self.low.tolist()}
        return {"type": "multi_discrete", "nvec": counts, "start": self.low.tolist()}

    def check(self, where: str, actions: np.ndarray) -> None:
        """Check `actions` [T, *shape].

        Raises:
            DataError: another shape or dtype, or a value out of bounds; names the step, the value and the bounds.
        """
        if actions.shape[1:] != self.shape:
            raise DataError(
                f"{where}: field 'action': found shape {list(actions.shape[1:])} a step, expected {list(self.shape)}"
            )
        wants_integers = self.kind != "box"
        if wants_integers and actions.dtype.kind not in "iu":
            raise DataError(f"{where}: field 'action': found dtype {actions.dtype}, expected integers ({self.kind})")
        if actions.dtype.kind == "b":
            raise DataError(f"{where}: field 'action': found dtype bool, expected {self.dtype}")
        slack = 0.0 if wants_integers else TOLERANCE * np.maximum(1.0, _finite_size(self.low, self.high))
        bad = (actions < self.low - slack) | (actions > self.high + slack)
        if not bad.any():
            return
        place = tuple(int(i) for i in np.argwhere(bad)[0])
        low, high = self.low[place[1:]], self.high[place[1:]]
        dimension = f", dimension {list(place[1:])}" if len(place) > 1 else ""
        raise DataError(
            f"{where}: field 'action', step {place[0]}{dimension}: found {actions[place]}, "
            f"expected a value in [{low}, {high}]"
        )


def _finite_size(low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The larger magnitude of the finite bounds: the tolerance is relative above 1."""
    size = np.maximum(np.where(np.isfinite(low), np.abs(low), 0.0), np.where(np.isfinite(high), np.abs(high), 0.0))
    return np.asarray(size, dtype=np.float64)


def _parse(space: Mapping[str, Any]) -> ActionSpace:
    kind = space["type"]
    if kind == "box":
        low = np.asarray(_floats(space["low"]), dtype=np.float64)
        high = np.asarray(_floats(space["high"]), dtype=np.float64)
        shape = tuple(int(n) for n in space.get("shape", np.broadcast_shapes(low.shape, high.shape)))
        dtype = np.dtype(space.get("dtype", "float32"))
        if dtype.kind not in "fiu":
            raise ValueError(f"dtype {dtype}")
        # The store keeps float32: float64 actions are rounded once, on the way in.
        name = "float32" if dtype == np.float64 else dtype.name
        low, high = np.broadcast_to(low, shape), np.broadcast_to(high, shape)
        if name == "float32":
            # 0.1 written by a person and 0.1 read from a float32 space are the same bound.
            with np.errstate(over="ignore"):
                low, high = (bound.astype(np.float32).astype(np.float64) for bound in (low, high))
        if np.isnan(low).any() or np.isnan(high).any() or (low > high).any():
            raise ValueError("low must not be above high")
        return ActionSpace("box", shape, name, low, high)
    if kind == "discrete":
        counts = np.asarray(int(space["n"]), dtype=np.int64)
        start = np.asarray(int(space.get("start", 0)), dtype=np.int64)
    elif kind == "multi_discrete":
        counts = np.asarray(space["nvec"], dtype=np.int64)
        start = np.asarray(space["start"] if space.get("start") is not None else np.zeros_like(counts), dtype=np.int64)
        start = np.broadcast_to(start, counts.shape)
    else:
        raise ValueError(f"type {kind!r}, expected 'box', 'discrete' or 'multi_discrete'")
    if (counts < 1).any():
        raise ValueError("every count must be at least 1")
    return ActionSpace(kind, counts.shape, "int64", start, start + counts - 1)


def _floats(value: Any) -> Any:
    """Nested lists with "inf" strings -> nested lists of floats."""
    if isinstance(value, list | tuple):
        return [_floats(item) for item in value]
    if isinstance(value, np.ndarray):
        return value.astype(np.float64)
    return float(value)


def _bounds_to_json(bounds: np.ndarray) -> Any:
    def convert(value: Any) -> Any:
        if isinstance(value, list):
            return [convert(item) for item in value]
        return value if np.isfinite(value) else ("inf" if value > 0 else "-inf")

    return convert(bounds.tolist())
