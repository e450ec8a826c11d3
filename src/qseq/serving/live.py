"""What the live page is told: one of the clients, as it is served, some times a second."""

from __future__ import annotations

import asyncio
import base64
import json
import math
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
from websockets.asyncio.server import ServerConnection

from qseq.observations import is_image
from qseq.policies import DecisionValues
from qseq.serving.config import ServingConfig
from qseq.serving.engine import Answer, Work
from qseq.serving.security import key_matches

PERIOD = 0.1
"""Seconds between two pictures of a page."""
SILENCE = 2.0
"""Seconds after which a page that may choose looks at another client."""
QUIET = 1.0
"""Seconds after which a page is told who is there though nothing happened."""
LONGEST_MESSAGE = 2000
"""Characters that a page may say at once."""
TOLD = ("server", "algorithm", "step", "history", "horizon", "takes_instructions")
"""What a page is told of the policy."""
LARGEST_SIDE = 256
"""Pixels; larger cameras are thinned out."""


class LivePage:
    """One page: which client it looks at, and what it has not been sent yet. A slow page misses pictures."""

    def __init__(self) -> None:
        self.chosen: int | None = None
        self._client: int | None = None
        self._expected: int | None = None
        self._last = -math.inf
        self._next: dict[str, Any] | None = None
        self._ready = asyncio.Event()

    def expect(self, clients: Sequence[int], now: float) -> int | None:
        """Which of the clients that are about to be answered it wants to see, if any."""
        self._expected = None
        if clients and now - self._last >= PERIOD:
            if self.chosen is not None:
                self._client = self.chosen
            elif self._client not in clients and now - self._last > SILENCE:
                self._client = clients[0]
            self._expected = self._client if self._client in clients else None
        return self._expected

    def expects(self, client: int) -> bool:
        """Whether it wants to see this one, which was answered."""
        return self._expected == client

    def show(self, picture: dict[str, Any]) -> None:
        self._next, self._last, self._expected = picture, time.monotonic(), None
        self._ready.set()

    async def picture(self) -> str:
        """The newest picture, as JSON, as soon as there is another."""
        await self._ready.wait()
        self._ready.clear()
        return json.dumps(self._next, allow_nan=False)


class LiveHub:
    """All pages. `clients` are those that may be looked at."""

    def __init__(self) -> None:
        self.pages: set[LivePage] = set()
        self.clients: set[int] = set()

    def watched(self, works: Sequence[Work]) -> Collection[int]:
        """Clients of a batch that some page wants to see."""
        if not self.pages:
            return ()
        now, clients = time.monotonic(), [work.client for work in works]
        wanted = {page.expect(clients, now) for page in self.pages}
        return [client for client in clients if client in wanted]

    def publish(self, work: Work, answer: Answer, *, steps: int, waited: float) -> None:
        """An answer went out: the pages that look at its client are told."""
        pages = [page for page in self.pages if page.expects(work.client)]
        if not pages:
            return
        picture = self._picture(work, answer, steps=steps, waited=waited)
        for page in pages:
            page.show(picture)

    def _picture(self, work: Work, answer: Answer, *, steps: int, waited: float) -> dict[str, Any]:
        frames = work.request.frames
        return {
            "client": work.client,
            "clients": sorted(self.clients)[:100],
            "step": steps,
            "policy_step": answer.step,
            "instruction": work.request.instruction or "",
            "wait_ms": round(1e3 * waited, 3),
            "compute_ms": round(1e3 * answer.seconds, 3),
            "batch_size": answer.batch_size,
            "action": [round(float(number), 5) for number in answer.actions[0][:64]],
            "horizon": len(answer.actions),
            "values": _values(answer.shown, answer.actions.shape[1]),
            "cameras": {name: _pixels(frame) for name, frame in frames.items() if is_image(frame.shape)},
            "fields": {name: _numbers(frame) for name, frame in frames.items() if not is_image(frame.shape)},
        }


async def serve_page(
    connection: ServerConnection,
    hub: LiveHub,
    config: ServingConfig,
    *,
    metadata: Mapping[str, Any],
    stopping: asyncio.Event,
) -> None:
    """One page, until it or the server ends. Its first message says the key: `{"key": TEXT}`; later ones which client
    it looks at: `{"client": NUMBER}`, or null for whichever asks.

    Raises ConnectionClosed when the page goes.
    """
    async with asyncio.timeout(config.limits.open_seconds):
        greeting = await _message_of(connection)
    if greeting is None or not key_matches(config.api_key, str(greeting.get("key", ""))):
        await connection.send(json.dumps({"error": "wrong API key"}))
        await connection.close(1008, "wrong API key")
        return
    page = LivePage()
    hub.pages.add(page)
    tasks = [asyncio.create_task(work) for work in (_listen(connection, page), stopping.wait())]
    try:
        await connection.send(json.dumps({"metadata": {name: metadata[name] for name in TOLD}}))
        while not any(task.done() for task in tasks):
            async with asyncio.timeout(config.limits.send_seconds):
                await connection.send(await _next_picture(page, hub))
        await connection.close(1001 if stopping.is_set() else 1008)
    except TimeoutError:
        connection.transport.abort()
    finally:
        hub.pages.discard(page)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _next_picture(page: LivePage, hub: LiveHub) -> str:
    """Or, where nothing happens for a while, who is there."""
    try:
        return await asyncio.wait_for(page.picture(), QUIET)
    except TimeoutError:
        return json.dumps({"clients": sorted(hub.clients)[:100]})


async def _listen(connection: ServerConnection, page: LivePage) -> None:
    while (message := await _message_of(connection)) is not None:
        client = message.get("client")
        page.chosen = client if type(client) is int else None


async def _message_of(connection: ServerConnection) -> dict[str, Any] | None:
    """None: not what a page says."""
    text = await connection.recv()
    try:
        message = json.loads(text) if len(text) <= LONGEST_MESSAGE else None
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) else None


def _values(shown: DecisionValues | None, dims: int) -> list[dict[str, Any]]:
    """Of the first action: for each dimension the score of every bin (None: no bin), and which was chosen."""
    if shown is None:
        return []
    return [
        {"chosen": int(token), "scores": [float(f"{value:.4g}") if math.isfinite(value) else None for value in values]}
        for values, token in zip(shown.values_AK[:dims].tolist(), shown.tokens_A[:dims], strict=True)
    ]


def _numbers(frame: np.ndarray) -> list[float]:
    return [float(f"{value:.4g}") for value in frame.reshape(-1)[:64].tolist()]


def _pixels(frame_CHW: np.ndarray) -> dict[str, Any]:
    """Red, green and blue bytes of each pixel: no format of pictures that a browser would have to parse."""
    thin = -(-max(frame_CHW.shape[1:]) // LARGEST_SIDE)
    seen = frame_CHW[:3] if len(frame_CHW) >= 3 else frame_CHW[:1]
    seen = seen[:, ::thin, ::thin]
    if seen.dtype != np.uint8:
        seen = (255 * seen).round().astype(np.uint8)
    rgb_HW3 = np.broadcast_to(seen, (3, *seen.shape[1:])).transpose(1, 2, 0)
    return {
        "width": rgb_HW3.shape[1],
        "height": rgb_HW3.shape[0],
        "rgb": base64.b64encode(np.ascontiguousarray(rgb_HW3).tobytes()).decode(),
    }
