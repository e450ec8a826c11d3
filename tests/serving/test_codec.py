"""The wire format: what openpi's client sends is read, and nothing else can be made of bytes."""

from __future__ import annotations

import contextlib
import random
import struct
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qseq.errors import RequestError
from qseq.serving import Limits
from qseq.serving.codec import ProtocolError, pack, unpack

LIMITS = Limits()


def array(dtype: Any = "<f4", shape: Any = (2,), data: Any = bytes(8)) -> dict[bytes, Any]:
    return {b"__ndarray__": True, b"dtype": dtype, b"shape": shape, b"data": data}


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", ">i2", "float16", "<f4", ">f8"])
def test_arrays_come_back_in_this_machines_order(dtype: str) -> None:
    sent = np.arange(6).reshape(2, 3).astype(dtype)
    found = unpack(pack({"x": sent}), LIMITS)["x"]
    np.testing.assert_array_equal(found, sent)
    assert found.dtype == sent.dtype.newbyteorder("=")


def test_numbers_texts_lists_and_maps_come_back() -> None:
    message = {"a": np.float32(1.5), "b": [1, 2.5, None, True], "c": {"d": "push"}, "e": np.zeros((0, 3), np.uint8)}
    found = unpack(pack(message), LIMITS)
    assert found["a"] == 1.5
    assert found["b"] == [1, 2.5, None, True]
    assert found["c"] == {"d": "push"}
    assert found["e"].shape == (0, 3)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"x": value}
    return value


HOSTILE: dict[str, bytes] = {
    "nothing": b"",
    "cut off": msgpack.packb({"x": [1, 2, 3]})[:-1],
    "more than one": msgpack.packb({}) + msgpack.packb({}),
    "no map": msgpack.packb([1, 2]),
    "an array alone": msgpack.packb(array()),
    "not utf-8": b"\x81\xa1\xff\x01",
    "reserved byte": b"\xc1",
    "numbers as keys": msgpack.packb({1: 2}),
    "bytes as keys": msgpack.packb({b"state": 2}),
    "extension type": b"\x81\xa1x" + msgpack.packb(msgpack.ExtType(5, b"cos\nsystem")),
    "a time": b"\x81\xa1x\xd6\xff" + bytes(4),
    "claims a list of 4 billion": b"\x81\xa1x\xdd\xff\xff\xff\xff",
    "claims a map of 4 billion": b"\xdf\xff\xff\xff\xff",
    "claims 4 GB of bytes": b"\x81\xa1x\xc6\xff\xff\xff\xff",
    "a million empty lists": b"\x81\xa1x\xdc\x04\x00" + (b"\xdc\x04\x00" + b"\x90" * 1024) * 1024,
    "nested 9 deep": msgpack.packb(nested(9)),
    "nested 900 deep": b"\x81\xa1x" + b"\x91" * 900 + b"\x01",
    "nested 100,000 deep": b"\x81\xa1x" + b"\x91" * 100_000 + b"\x01",
    "data too short": msgpack.packb({"x": array(shape=(3,))}),
    "huge shape": msgpack.packb({"x": array(shape=(2**31, 2**31, 2**31))}),
    "huge shape of nothing": msgpack.packb({"x": array(shape=(2**62, 0), data=b"")}),
    "negative shape": msgpack.packb({"x": array(shape=(-1, -2))}),
    "true as a size": msgpack.packb({"x": array(shape=(True, 2))}),
    "a float as a size": msgpack.packb({"x": array(shape=(2.0,))}),
    "too many dimensions": msgpack.packb({"x": array(shape=(1,) * 9 + (2,))}),
    "shape is no list": msgpack.packb({"x": array(shape=2)}),
    "data is text": msgpack.packb({"x": array(data="12345678")}),
    "dtype is a list": msgpack.packb({"x": array(dtype=[["a", "<f4"]])}),
    "array without anything": msgpack.packb({"x": {b"__ndarray__": True}}),
    "number of text": msgpack.packb({"x": {b"__npgeneric__": True, b"dtype": "<f4", b"data": "1"}}),
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_is_no_message_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        unpack(data, LIMITS)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    "dtype", ["|O", "O", "<U8", "|S8", "|V8", "<M8[s]", "<c8", "<f16", "f4,f4", "(2,)f4", "x" * 999]
)
def test_types_other_than_numbers_are_refused(dtype: str) -> None:
    with pytest.raises(RequestError, match="expected numbers or booleans"):
        unpack(msgpack.packb({"x": array(dtype=dtype)}), LIMITS)


def test_a_number_that_its_type_cannot_hold_is_refused() -> None:
    with pytest.raises(RequestError, match="300"):
        unpack(msgpack.packb({"x": {b"__npgeneric__": True, b"dtype": "|u1", b"data": 300}}), LIMITS)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    with contextlib.suppress(ProtocolError, RequestError):
        assert isinstance(unpack(data, LIMITS), dict)


def test_messages_with_bytes_changed_are_read_or_refused() -> None:
    generator = random.Random(0)
    whole = pack({"image": np.zeros((3, 4, 4), np.uint8), "state": [1.0, 2.0], "prompt": "go", "n": np.float64(1)})
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(len(data))] = generator.choice([0, 1, 0x7F, 0x90, 0xC1, 0xDC, 0xFF])
        if generator.random() < 0.3:
            data = data[: generator.randrange(len(data))] + struct.pack(">I", generator.getrandbits(32))
        with contextlib.suppress(ProtocolError, RequestError):
            unpack(bytes(data), LIMITS)
