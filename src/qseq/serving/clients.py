"""One robot's connection: metadata first, then an answer for each observation."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from websockets.asyncio.server import ServerConnection

from qseq.errors import QseqError, RequestError
from qseq.serving.batching import Batcher
from qseq.serving.codec import ProtocolError, pack, unpack
from qseq.serving.config import Limits
from qseq.serving.engine import Answer, Work
from qseq.serving.live import LiveHub
from qseq.serving.metrics import ServingMetrics
from qseq.serving.rate import TokenBucket
from qseq.serving.requests import RequestReader

log = logging.getLogger("qseq.serving")
POLICY_VIOLATION, GOING_AWAY = 1008, 1001
LONGEST_ERROR = 1000


class Client:
    """Serves one connection until it ends.

    Args:
        number: by which the policy remembers it.
        stopping: whether the server ends.
    """

    def __init__(
        self,
        number: int,
        connection: ServerConnection,
        *,
        reader: RequestReader,
        batcher: Batcher,
        hub: LiveHub,
        metrics: ServingMetrics,
        limits: Limits,
        stopping: Callable[[], bool],
    ) -> None:
        self.number = number
        self.busy = False
        self._connection = connection
        self._reader = reader
        self._batcher = batcher
        self._hub = hub
        self._metrics = metrics
        self._limits = limits
        self._stopping = stopping
        self._bucket = TokenBucket(limits.requests_per_second, limits.burst)
        self._steps = 0

    async def serve(self, metadata: Mapping[str, Any]) -> None:
        """Raises ConnectionClosed when the client goes."""
        await self._send(pack(metadata))
        total: float | None = None
        while not self._stopping():
            message = await self._connection.recv()
            arrived = time.perf_counter()
            self._metrics.requests.inc()
            if delay := self._bucket.delay():
                self._metrics.delayed.inc()
                await asyncio.sleep(delay)
            self.busy = True
            try:
                if not await self._answer(message, arrived, total):
                    return
            finally:
                self.busy = False
            total = time.perf_counter() - arrived
            self._metrics.latency.observe(total)
        await self.leave()

    async def leave(self) -> None:
        """Say that the server ends."""
        await self._connection.close(GOING_AWAY, "the server is stopping")

    async def _answer(self, message: bytes | str, arrived: float, total_before: float | None) -> bool:
        """Whether the connection goes on."""
        try:
            if isinstance(message, str):
                raise ProtocolError("message: found text, expected msgpack")
            work = Work(client=self.number, request=self._reader.read(unpack(message, self._limits)))
            answer, waited = await self._batcher.decide(work)
        except ProtocolError as error:
            self._metrics.errors.labels("protocol").inc()
            await self._send(_line(error))
            await self._connection.close(POLICY_VIOLATION, "not the openpi protocol")
            return False
        except QseqError as error:
            self._metrics.errors.labels("request" if isinstance(error, RequestError) else "server").inc()
            await self._send(_line(error))
            return True
        self._metrics.compute.observe(answer.seconds)
        self._metrics.batch_size.observe(answer.batch_size)
        await self._send(pack(_message(answer, waited, total_before)))
        self._steps = 1 if work.request.reset else self._steps + 1
        self._hub.publish(work, answer, steps=self._steps, waited=time.perf_counter() - arrived - answer.seconds)
        return True

    async def _send(self, message: bytes | str) -> None:
        try:
            async with asyncio.timeout(self._limits.send_seconds):
                await self._connection.send(message)
        except TimeoutError:
            log.warning("client %d takes no answers, disconnected", self.number)
            self._connection.transport.abort()
            raise


def _message(answer: Answer, waited: float, total_before: float | None) -> dict[str, Any]:
    timing = {"infer_ms": 1e3 * answer.seconds, "wait_ms": 1e3 * waited, "batch_size": answer.batch_size}
    if total_before is not None:
        timing["prev_total_ms"] = 1e3 * total_before
    message: dict[str, Any] = {"actions": answer.actions, "server_timing": timing}
    return message if answer.step is None else message | {"step": answer.step}


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= LONGEST_ERROR else f"{text[:LONGEST_ERROR]}..."
