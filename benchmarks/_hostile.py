"""Messages and connections that no robot makes, for benchmarks/serving_fuzz.py."""

from __future__ import annotations

import random
import struct
from typing import Any

import msgpack
import numpy as np

from qseq.serving.codec import pack

GARBAGE = (
    b"\xc1",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\x81\xa5state\xc6\xff\xff\xff\xff",
    b"\x81\xa5state" + b"\x91" * 60_000 + b"\x01",
    b"\x81\xa5state\xdc\x04\x00" + b"\x90" * 1024,
    b"\x81\xa5state\xdc\x00\x30" + (b"\xdc\x04\x00" + b"\x90" * 1024) * 48,
    msgpack.packb({1: 2}),
    msgpack.packb([1, 2, 3]),
    b"\x81\xa1x" + msgpack.packb(msgpack.ExtType(1, b"cos\nsystem\n(S'id'\ntR.")),
)
TYPES = ("|O", "<U4", "|S4", "|V4", "<M8[s]", "<c8", "<f4", "|u1", "<i8", "nonsense", "<f4,<f4")
SHAPES: tuple[Any, ...] = ([39], [2**31] * 4, [-1], [0], [1, 39], [39, 1], [True], [1.5], [1] * 40, [2**62], "39", None)


def message(generator: random.Random, width: int) -> bytes | str:
    """One of many kinds; about a third of them are maps that are only wrong in what they say."""
    kind = generator.randrange(8)
    if kind == 0:
        return generator.choice(GARBAGE)
    if kind == 1:
        return generator.randbytes(generator.randrange(300))
    if kind == 2:
        data = bytearray(pack({"state": np.zeros(width, np.float32), "prompt": "go"}))
        for _ in range(generator.randint(1, 5)):
            data[generator.randrange(len(data))] = generator.randrange(256)
        return bytes(data)
    if kind == 3:
        array = {
            b"__ndarray__": True,
            b"dtype": generator.choice(TYPES),
            b"shape": generator.choice(SHAPES),
            b"data": generator.randbytes(generator.choice((0, 4, 4 * width, 1000))),
        }
        return bytes(msgpack.packb({"state": array}))
    if kind == 4:
        value = generator.choice([None, True, "push", b"push", [], [[1], [1, 2]], {"a": 1}, [1e300] * width, 2**63, -1])
        return pack({"state": value, "reset": generator.choice([True, 1, "yes", None])})
    if kind == 5:  # well formed, and says something new each time
        text = generator.randbytes(100).hex()
        return pack({"state": np.zeros(width, np.float32), "prompt": text, text: np.zeros(3), "reset": True})
    if kind == 6:
        return pack({"state": np.full(width, generator.choice([np.nan, np.inf, 1e30]), np.float64)})
    return generator.choice(["", "reset", "{}", "\u2028" * 100])


def bytes_of_a_stranger(generator: random.Random) -> bytes:
    """What may come before a connection is a websocket."""
    return generator.choice(
        [
            b"",
            b"GET",
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n",
            b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 9000 + b"\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 999999999\r\n\r\n",
            b"GET /" + b"../" * 50 + b"etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
            b"\x16\x03\x01" + generator.randbytes(200),
            struct.pack(">I", generator.getrandbits(32)) * 100,
        ]
    )
