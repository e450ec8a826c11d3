"""The server: lets connections in, serves robots and pages, follows the run's checkpoints, and stops in order."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import math
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosed

import qseq
from qseq.observations import is_image
from qseq.serving.batching import Batcher
from qseq.serving.clients import Client
from qseq.serving.config import ServingConfig
from qseq.serving.connections import counted
from qseq.serving.engine import Engine
from qseq.serving.http import PAGES, Doorkeeper
from qseq.serving.live import LiveHub, serve_page
from qseq.serving.metrics import ServingMetrics
from qseq.serving.reloading import CheckpointWatch, load_checkpoint, newer_policy
from qseq.serving.requests import RequestReader
from qseq.serving.security import check_bind

log = logging.getLogger("qseq.serving")
SPARE_BYTES = 64 * 1024


class PolicyServer:
    """Serves the policy of a run; `async with` starts and stops it.

    Args:
        source: a run folder, a policy folder or a Hub repository.
        options: decoding options of the policy.

    Raises:
        RequestError: there is no such policy, the configuration does not fit it, or strangers could connect.
        DataError: its files are damaged.
    """

    def __init__(self, source: str, config: ServingConfig, **options: Any) -> None:
        check_bind(config.host, config.api_key, insecure=config.insecure)
        self.config = config
        self.metrics = ServingMetrics()
        self._source, self._options = source, options
        self._watch = CheckpointWatch(source)
        policy, step = load_checkpoint(source, options)
        self._reader = RequestReader(policy, config.rename, longest_instruction=config.limits.instruction)
        self._engine = Engine(policy, step)
        self._numbers = itertools.count()
        self._hub = LiveHub()
        self._clients: set[Client] = set()
        self._stopping = asyncio.Event()
        self._note_step()

    @property
    def metadata(self) -> dict[str, Any]:
        """What a client is told first."""
        policy = self._engine.policy
        return {
            "server": f"qseq {qseq.__version__}",
            "algorithm": policy.kind,
            "step": self._engine.step,
            "observation": {
                name: {"shape": list(shape), "dtype": "uint8" if is_image(shape) else "float32"}
                for name, shape in policy.observation_fields.items()
            },
            "action_space": policy.action_space,
            "takes_instructions": policy.takes_instructions,
            "history": policy.history,
            "horizon": policy.horizon,
            "rename": dict(self.config.rename),
        }

    @property
    def port(self) -> int:
        """The one it listens at."""
        return int(self._server.sockets[0].getsockname()[1])

    async def __aenter__(self) -> PolicyServer:
        config, limits = self.config, self.config.limits
        self._batcher = Batcher(
            self._engine,
            max_batch=config.max_batch,
            max_wait=config.max_wait_ms / 1e3,
            clients=lambda: len(self._clients),
            watch=self._hub.watched,
        )
        doorkeeper = Doorkeeper(
            config, self.metrics, clients=lambda: len(self._clients), pages=lambda: len(self._hub.pages)
        )
        # The library reports every broken handshake as an error, which strangers could fill the log with.
        quiet = logging.getLogger("qseq.serving.websockets")
        quiet.setLevel(logging.CRITICAL)
        self._server: Server = await serve(
            self._handle,
            config.host,
            config.port,
            process_request=doorkeeper.answer,
            create_connection=counted(2 * limits.connections + limits.pages),
            compression=None,
            server_header=None,
            open_timeout=limits.open_seconds,
            ping_interval=limits.ping_seconds,
            ping_timeout=limits.ping_seconds,
            close_timeout=limits.send_seconds,
            max_size=limits.message_bytes or self._message_bytes(),
            max_queue=1,
            logger=quiet,
        )
        self._reloading = asyncio.create_task(self._reload_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Answers what is being computed, then closes."""
        self._stopping.set()
        self._reloading.cancel()
        self._server.close(close_connections=False)
        leaving = [asyncio.create_task(client.leave()) for client in self._clients if not client.busy]
        try:
            async with asyncio.timeout(self.config.limits.stop_seconds):
                await self._server.wait_closed()
        except TimeoutError:
            log.warning("some clients did not take their leave, disconnected")
            for connection in self._server.connections:
                connection.transport.abort()
        await self._batcher.close()
        await asyncio.gather(*leaving, return_exceptions=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._server.wait_closed(), 1.0)

    async def _handle(self, connection: ServerConnection) -> None:
        """One connection, from after its handshake to its end."""
        assert connection.request is not None
        try:
            if connection.request.path == PAGES:
                with self.metrics.pages.track_inprogress():
                    await serve_page(
                        connection, self._hub, self.config, metadata=self.metadata, stopping=self._stopping
                    )
            else:
                await self._serve_client(connection)
        except (ConnectionClosed, TimeoutError):
            pass

    async def _serve_client(self, connection: ServerConnection) -> None:
        client = Client(
            next(self._numbers),
            connection,
            reader=self._reader,
            batcher=self._batcher,
            hub=self._hub,
            metrics=self.metrics,
            limits=self.config.limits,
            stopping=self._stopping.is_set,
        )
        self._clients.add(client)
        self._hub.clients.add(client.number)
        try:
            with self.metrics.clients.track_inprogress():
                await client.serve(self.metadata)
        finally:
            self._clients.discard(client)
            self._hub.clients.discard(client.number)
            self._batcher.forget(client.number)

    async def _reload_forever(self) -> None:
        while self.config.reload_seconds:
            await asyncio.sleep(self.config.reload_seconds)
            try:
                await self._reload()
            except Exception:  # whatever a newer checkpoint brings, the old one is served on
                self.metrics.reloads.labels("refused").inc()
                log.exception("newer checkpoint refused")

    async def _reload(self) -> None:
        if not await asyncio.to_thread(self._watch.changed):
            return
        found = await asyncio.to_thread(newer_policy, self._source, self._options, self._engine.policy)
        self.metrics.reloads.labels("refused" if found is None else "taken").inc()
        if found is not None:
            policy, step = found
            await self._batcher.between_batches(lambda: self._engine.replace(policy, step))
            self._note_step()
            log.info("step %s is served now", step)

    def _note_step(self) -> None:
        self.metrics.step.set(math.nan if self._engine.step is None else self._engine.step)

    def _message_bytes(self) -> int:
        fields = self._engine.policy.observation_fields
        return 4 * sum(4 * math.prod(shape) for shape in fields.values()) + SPARE_BYTES
