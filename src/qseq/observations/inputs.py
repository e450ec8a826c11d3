"""What a policy is given, checked: one clear line for each way in which it can be wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qseq.errors import RequestError

Observation = Mapping[str, Any] | np.ndarray
"""Arrays by field; a bare one is the field "state"."""


def is_image(shape: tuple[int, ...]) -> bool:
    """A field of three dimensions is a camera's frame [C, H, W]."""
    return len(shape) == 3


def read_frames(observation: Observation, fields: Mapping[str, tuple[int, ...]]) -> tuple[dict[str, np.ndarray], bool]:
    """Fields `[B, *shape]`, and whether a single observation was given.

    Raises:
        RequestError: a field is missing, of another shape, or no image where one is expected.
    """
    given = observation if isinstance(observation, Mapping) else {"state": observation}
    frames: dict[str, np.ndarray] = {}
    single = False
    for name, shape in fields.items():
        if name not in given:
            raise RequestError(
                f"observation: field '{name}' is missing; found {sorted(given)}, expected {sorted(fields)}"
            )
        value = np.asarray(given[name])
        single = value.shape == shape
        if not single and value.shape[1:] != shape:
            raise RequestError(
                f"observation: field '{name}' has shape {list(value.shape)}, expected {list(shape)} "
                f"or a batch of them{_hint(value.shape, shape)}"
            )
        if is_image(shape):
            _check_image(name, value)
        frames[name] = value[None] if single else value
    return frames, single


def read_instructions(
    instruction: str | Sequence[str] | None, rows: int, *, default: str, taken: bool, needed: bool
) -> list[str]:
    """One text for each row; an empty one means that nothing is said.

    Args:
        default: told where nothing is said.
        taken, needed: whether the policy reads instructions, and whether it cannot do without.

    Raises:
        RequestError: another number of texts than rows, one that is not taken, or none where one is needed.
    """
    given = [instruction or ""] * rows if instruction is None or isinstance(instruction, str) else list(instruction)
    if len(given) != rows:
        raise RequestError(f"instruction: found {len(given)} texts for {rows} observations, expected one for each")
    if not taken:
        if any(given):
            raise RequestError(
                f"instruction: found '{next(filter(None, given))}', expected none: the policy was trained without "
                "instructions (network.text.encoder=none)"
            )
        return given
    texts = [text or default for text in given]
    if needed and not all(texts):
        raise RequestError(
            "instruction: found none, expected a text: the policy was trained on several instructions and must be "
            "told which to follow"
        )
    return texts


def _hint(found: tuple[int, ...], expected: tuple[int, ...]) -> str:
    """Of an image whose channels come last."""
    swapped = is_image(expected) and found[-3:] == (*expected[1:], expected[0])
    return "; the channels come first" if swapped else ""


def _check_image(name: str, value: np.ndarray) -> None:
    if value.dtype == np.uint8:
        return
    expected = "expected uint8 in [0, 255] or floats in [0, 1]"
    if not np.issubdtype(value.dtype, np.floating):
        raise RequestError(f"observation: image '{name}' is {value.dtype}, {expected}")
    if value.size and not (value.min() >= 0.0 and value.max() <= 1.0):
        raise RequestError(
            f"observation: image '{name}' is {value.dtype} in [{value.min():.4g}, {value.max():.4g}], {expected}"
        )
