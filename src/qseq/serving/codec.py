"""The bytes of the openpi protocol: msgpack, in which a map with the key `__ndarray__` is an array.

Nothing that comes in is trusted: sizes are checked before memory is taken, and no type can be made but numbers, texts,
lists, maps and arrays of numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np

from qseq.errors import QseqError, RequestError
from qseq.serving.config import Limits

# Booleans, integers and floats of 1 to 8 bytes, in either order. No objects, records, texts or times.
NUMBERS = re.compile(r"^[<>|=]?(b1|[iu][1248]|f[248])$")
MOST_DIMENSIONS = 8


class ProtocolError(QseqError):
    """Bytes that are no message of the protocol, or one made to do harm: the connection is closed."""


def pack(message: Mapping[str, Any]) -> bytes:
    """A message as bytes; arrays and numbers of numpy in the form that openpi's client reads."""
    packed: bytes = msgpack.packb(message, default=_pack_array)
    return packed


def unpack(data: bytes, limits: Limits) -> dict[str, Any]:
    """The message that `pack` or openpi's client made; maps have texts as keys.

    Raises:
        ProtocolError: bytes that are no message, or exceed the limits.
        RequestError: an array of a type that is not taken.
    """
    try:
        raw = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_hook=(counter := _Counter(limits.items)).map,
            list_hook=counter.list,
            max_array_len=limits.list_items,
            max_map_len=limits.list_items,
            max_ext_len=0,
        )
    except ProtocolError:
        raise
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ProtocolError(f"message: found bytes that are no msgpack within the limits ({reason})") from error
    if not isinstance(raw, dict):
        raise ProtocolError(f"message: found {type(raw).__name__}, expected a map of observation fields")
    message = _read(raw, limits.depth)
    if not isinstance(message, dict):
        raise ProtocolError("message: found an array, expected a map of observation fields")
    return message


class _Counter:
    """Counts entries while they are read, as a short message can hold very many empty lists."""

    def __init__(self, left: int) -> None:
        self._left = left

    def map(self, items: dict[Any, Any]) -> dict[Any, Any]:
        self._take(len(items) + 1)
        return items

    def list(self, items: list[Any]) -> list[Any]:
        self._take(len(items) + 1)
        return items

    def _take(self, number: int) -> None:
        self._left -= number
        if self._left < 0:
            raise ProtocolError("message: found too many lists and maps, expected arrays of numbers")


def _read(value: Any, depth: int) -> Any:
    """Maps that stand for arrays become arrays."""
    if isinstance(value, (dict, list)) and depth < 1:
        raise ProtocolError("message: found maps and lists nested too deep")
    if isinstance(value, list):
        return [_read(item, depth - 1) for item in value]
    if not isinstance(value, dict):
        return value
    if b"__ndarray__" in value:
        return _array(value)
    if b"__npgeneric__" in value:
        return _scalar(value)
    for name in value:
        if not isinstance(name, str):
            raise ProtocolError(f"message: found the key {_short(name)}, expected texts as keys")
    return {name: _read(item, depth - 1) for name, item in value.items()}


def _array(value: Mapping[Any, Any]) -> np.ndarray:
    data, dtype, shape = value.get(b"data"), _dtype(value.get(b"dtype")), value.get(b"shape")
    if not isinstance(data, bytes) or not isinstance(shape, list):
        raise ProtocolError("array: found no data or no shape, expected bytes and a list of sizes")
    if len(shape) > MOST_DIMENSIONS or not all(type(size) is int and 0 <= size <= 2**31 for size in shape):
        raise ProtocolError(f"array: found shape {_short(shape)}, expected up to {MOST_DIMENSIONS} sizes of at least 0")
    if (expected := math.prod(shape) * dtype.itemsize) != len(data):
        raise ProtocolError(f"array: found {len(data)} bytes, expected {expected} for {dtype} of shape {shape}")
    array = np.frombuffer(data, dtype).reshape(shape)
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


def _scalar(value: Mapping[Any, Any]) -> Any:
    number, dtype = value.get(b"data"), _dtype(value.get(b"dtype"))
    if not isinstance(number, (bool, int, float)):
        raise ProtocolError(f"number: found {type(number).__name__}, expected a number")
    try:
        return dtype.type(number)
    except OverflowError as error:
        raise RequestError(f"number: found {_short(number)}, which is no {dtype}") from error


def _dtype(name: Any) -> np.dtype[Any]:
    if not isinstance(name, str):
        raise ProtocolError(f"array: found dtype {_short(name)}, expected the name of one")
    if not NUMBERS.match(name):
        raise RequestError(f"array: found dtype {_short(name)}, expected numbers or booleans of up to 8 bytes")
    return np.dtype(name)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _pack_array(value: Any) -> Any:
    if isinstance(value, np.ndarray) and NUMBERS.match(value.dtype.str):
        return {b"__ndarray__": True, b"data": value.tobytes(), b"dtype": value.dtype.str, b"shape": value.shape}
    if isinstance(value, np.generic) and NUMBERS.match(value.dtype.str):
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"cannot be sent: {type(value).__name__}")
