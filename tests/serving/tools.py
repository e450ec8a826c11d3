"""A server in this process, and robots that ask it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import msgpack
import numpy as np
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from qseq.policies import Policy
from qseq.serving import PolicyServer, ServingConfig
from qseq.serving.codec import pack

SECONDS = 30.0
"""After which a test gives up; nothing is measured by it."""


def until(condition: Callable[[], bool]) -> None:
    """Waits for what another thread or process does."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class Running:
    """A server whose loop runs in a thread."""

    def __init__(self, source: Path, config: ServingConfig) -> None:
        self.server = PolicyServer(str(source), config)
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        assert self._ready.wait(SECONDS)

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(self._main())

    async def _main(self) -> None:
        async with self.server:
            self.port = self.server.port
            self._ready.set()
            await self._stop.wait()

    def stop(self) -> None:
        """Begin to stop."""
        self.loop.call_soon_threadsafe(self._stop.set)

    def join(self) -> None:
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        self.loop.close()


@contextlib.contextmanager
def running(source: Path, **settings: Any) -> Iterator[Running]:
    """A server at a free port, stopped at the end."""
    server = Running(source, ServingConfig(port=0, **settings))
    try:
        yield server
    finally:
        server.stop()
        server.join()


class RefusedError(Exception):
    """The server answered with an error."""


class Robot:
    """What openpi's client does, in the bytes of this test's own msgpack."""

    def __init__(self, port: int, *, key: str | None = None, path: str = "") -> None:
        headers = None if key is None else {"Authorization": f"Api-Key {key}"}
        address = f"ws://127.0.0.1:{port}{path}"
        self._opened = contextlib.ExitStack()
        self.socket = self._opened.enter_context(
            connect(address, compression=None, max_size=None, additional_headers=headers, proxy=None)
        )
        self.metadata = read(self.socket.recv(SECONDS))

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.socket.send(pack(observation))
        return self.answer()

    def answer(self) -> dict[str, Any]:
        answer = self.socket.recv(SECONDS)
        if isinstance(answer, str):
            assert "\n" not in answer
            raise RefusedError(answer)
        found: dict[str, Any] = read(answer)
        return found

    def actions(self, observation: dict[str, Any]) -> np.ndarray:
        found: np.ndarray = self.infer(observation)["actions"]
        return found

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()


def read(data: bytes | str) -> Any:
    """As openpi's client reads it."""
    assert isinstance(data, bytes)

    def hook(found: dict[Any, Any]) -> Any:
        if b"__ndarray__" not in found:
            return found
        return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])

    return msgpack.unpackb(data, object_hook=hook)


def status_of(port: int, **arguments: Any) -> int:
    """The HTTP status with which a connection is refused."""
    try:
        Robot(port, **arguments).socket.close()
    except InvalidStatus as error:
        return error.response.status_code
    return 101


def save(policy: Policy, folder: Path) -> Path:
    policy.save_pretrained(folder)
    return folder


def states(number: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(number, 3)).astype(np.float32)
