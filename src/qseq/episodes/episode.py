"""One episode: T transitions and T+1 observations."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from qseq.errors import DataError

JsonScalar = str | int | float | bool | None

RESERVED_FIELDS = ("action", "reward")
"""Column names that an observation field may not take."""

_MAX_NAME = 150


@dataclass(frozen=True, kw_only=True)
class Episode:
    """What happened from one reset to the next.

    Attributes:
        observations: name -> array [T+1, *shape]; row t is what was seen before action t, row T the true last state.
        actions: [T, *action_shape], in the user's own units.
        rewards: [T]; reward t came with the state in row t+1.
        terminated: the last state is terminal, nothing follows it.
        truncated: the episode was cut off although more could have followed.
            Neither of the two means that the recording ended, which is treated like a cut.
        success: whether the task was done, None when nobody said.
        instruction: the text the actor was given, "" for none.
        metadata: JSON scalars: "task", "source", "seed", ...
    """

    observations: dict[str, np.ndarray]
    actions: np.ndarray
    rewards: np.ndarray
    terminated: bool
    truncated: bool
    success: bool | None = None
    instruction: str = ""
    metadata: Mapping[str, JsonScalar] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """T, the number of transitions."""
        return len(self.actions)

    def validate(self, where: str = "episode") -> None:
        """Check lengths, finiteness and flags.

        Args:
            where: how messages name this episode.

        Raises:
            DataError: one line with the field, the step, what was found and what was expected.
        """
        _check_array(where, "action", self.actions)
        _check_array(where, "reward", self.rewards)
        steps = len(self.actions)
        if steps == 0:
            raise DataError(f"{where}: field 'action': found 0 steps, expected at least 1")
        if self.rewards.shape != (steps,):
            raise DataError(
                f"{where}: field 'reward': found shape {list(self.rewards.shape)}, "
                f"expected [{steps}] (one reward an action)"
            )
        if not self.observations:
            raise DataError(f"{where}: found no observation field, expected at least one, such as 'state'")
        for name, values in self.observations.items():
            _check_name(where, name)
            _check_array(where, name, values)
            if len(values) != steps + 1:
                raise DataError(
                    f"{where}: field '{name}': found {len(values)} observations, "
                    f"expected {steps + 1} (one before each of {steps} actions and the last state)"
                )
            check_finite(where, name, values)
        check_finite(where, "action", self.actions)
        check_finite(where, "reward", self.rewards)
        if self.terminated and self.truncated:
            raise DataError(f"{where}: found both terminated and truncated, expected at most one of them")
        if self.success is not None and not isinstance(self.success, bool | np.bool_):
            raise DataError(f"{where}: success: found {self.success!r}, expected True, False or None")
        if not isinstance(self.instruction, str):
            raise DataError(f"{where}: instruction: found {type(self.instruction).__name__}, expected a string")
        _check_metadata(where, self.metadata)


def check_finite(where: str, name: str, values: np.ndarray, first_step: int = 0) -> None:
    """Raise DataError naming the first step of `values` [rows, *shape] that holds NaN or an infinity."""
    if values.dtype.kind != "f":
        return
    # The sum is finite when every value is, save for overflow: one cheap pass decides the usual case.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(values.sum(dtype=np.float64)):
            return
    bad = ~np.isfinite(values)
    if not bad.any():
        return
    place = tuple(int(i) for i in np.argwhere(bad)[0])
    dimension = f", dimension {list(place[1:])}" if len(place) > 1 else ""
    raise DataError(
        f"{where}: field '{name}', step {first_step + place[0]}{dimension}: "
        f"found {values[place]}, expected a finite number"
    )


def _check_name(where: str, name: str) -> None:
    if not isinstance(name, str) or not name or len(name) > _MAX_NAME:
        raise DataError(f"{where}: found field name {name!r}, expected a string of 1 to {_MAX_NAME} characters")
    if name in RESERVED_FIELDS:
        raise DataError(f"{where}: found observation field '{name}', expected a name other than 'action' and 'reward'")


def _check_array(where: str, name: str, values: np.ndarray) -> None:
    if not isinstance(values, np.ndarray):
        raise DataError(f"{where}: field '{name}': found {type(values).__name__}, expected a numpy array")
    if values.dtype.kind not in "fiub":
        raise DataError(f"{where}: field '{name}': found dtype {values.dtype}, expected numbers")
    if values.ndim == 0:
        raise DataError(f"{where}: field '{name}': found a single number, expected one row a step")


def _check_metadata(where: str, metadata: Mapping[str, JsonScalar]) -> None:
    for key, value in metadata.items():
        if not isinstance(key, str):
            raise DataError(f"{where}: metadata key {key!r}: expected a string")
        if value is not None and not isinstance(value, str | int | float | bool):
            raise DataError(
                f"{where}: metadata '{key}': found {type(value).__name__}, "
                "expected a string, a number, True, False or None"
            )
        if isinstance(value, float) and not math.isfinite(value):
            raise DataError(f"{where}: metadata '{key}': found {value}, expected a finite number")
