"""What a client asks: the fields of a message, told apart into what the policy reads and what steers the server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from qseq.errors import RequestError
from qseq.observations import is_image, read_frames
from qseq.policies import Policy

INSTRUCTIONS = ("prompt", "instruction")
RESET, CONTINUE = "reset", "continue"
STEERING = (*INSTRUCTIONS, RESET, CONTINUE)


@dataclass(frozen=True, kw_only=True)
class Request:
    """One observation of one client.

    Attributes:
        frames: every field the policy reads, `[*shape]`: images uint8 or float32, all else float32.
        instruction: what the robot is told; None where nothing is said.
        reset: an episode begins with this observation.
        goes_on: what was decided before is carried on with; else a new decision is wanted.
    """

    frames: dict[str, np.ndarray]
    instruction: str | None = None
    reset: bool = False
    goes_on: bool = False

    @property
    def types(self) -> tuple[str, ...]:
        """Requests are only decided together if they agree in these: images of bytes and of floats do not mix."""
        return tuple(frame.dtype.str for frame in self.frames.values())


class RequestReader:
    """Messages -> requests of one policy.

    Args:
        rename: a client's name of a field -> the policy's.
        longest_instruction: in characters.

    Raises:
        RequestError: a name is given to what is no field of the policy.
    """

    def __init__(self, policy: Policy, rename: Mapping[str, str], *, longest_instruction: int) -> None:
        self.fields = policy.observation_fields
        self._rename = dict(rename)
        self._longest_instruction = longest_instruction
        known = [*self.fields, *STEERING]
        for theirs, ours in rename.items():
            if ours not in known:
                raise RequestError(f"rename: {theirs}={ours}: found '{ours}', expected one of {', '.join(known)}")

    def read(self, message: Mapping[str, Any]) -> Request:
        """Raises RequestError: a field is missing or of another shape or type, or not finite."""
        given = {self._rename.get(name, name): value for name, value in _flat(message)}
        shown = {name: self._frame(name, given[name]) for name in self.fields if name in given}
        others = {name: 0 for name in given if name not in STEERING}  # only their names are looked at, in the error
        read_frames({**others, **shown}, self.fields)
        for name, frame in shown.items():
            if frame.shape != self.fields[name]:
                raise RequestError(f"observation: field '{name}' is a batch, expected one observation a message")
        reset, goes_on = (_flag(name, given.get(name, False)) for name in (RESET, CONTINUE))
        return Request(frames=shown, instruction=self._instruction(given), reset=reset, goes_on=goes_on)

    def _frame(self, name: str, value: Any) -> np.ndarray:
        shape = self.fields[name]
        try:
            array = np.asarray(value)
        except (ValueError, TypeError, OverflowError):
            array = np.asarray(None)
        if array.dtype.kind not in "biuf":
            raise RequestError(f"observation: field '{name}' is {type(value).__name__}, expected an array of numbers")
        if is_image(shape):
            if array.shape != shape and array.shape == (*shape[1:], shape[0]):
                array = array.transpose(2, 0, 1)  # most cameras' drivers put the channels last
            if array.dtype == np.uint8:
                return array
            if array.dtype.kind != "f":
                return array  # `read_frames` says what is wrong
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise RequestError(f"observation: field '{name}' holds NaN or infinity, expected finite float32 values")
        return array

    def _instruction(self, given: Mapping[str, Any]) -> str | None:
        said = {str(given[name]) for name in INSTRUCTIONS if _is_text(name, given.get(name))}
        if len(said) > 1:
            raise RequestError("observation: 'prompt' and 'instruction' differ, expected one of them")
        instruction = next(iter(said), None)
        if instruction is not None and len(instruction) > self._longest_instruction:
            raise RequestError(
                f"instruction: found {len(instruction)} characters, expected at most {self._longest_instruction}"
            )
        return instruction


def _flat(message: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Maps within maps by path: {"images": {"front": x}} has the field "images/front"."""
    for name, value in message.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        else:
            yield before + name, value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, (bool, np.bool_)):
        raise RequestError(f"observation: '{name}' is {type(value).__name__}, expected true or false")
    return bool(value)


def _is_text(name: str, value: Any) -> bool:
    if value is not None and not isinstance(value, str):
        raise RequestError(f"observation: '{name}' is {type(value).__name__}, expected a text")
    return bool(value)
