"""A server as a process of its own: started, said where it listens, and stopped by a signal."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from typing import Any

from qseq.serving.config import ServingConfig
from qseq.serving.server import PolicyServer

# Seconds that the deciding thread keeps Python to itself while another wants it: the default of 5 ms is longer
# than a decision of a small policy takes.
SWITCH_INTERVAL = 0.0005


def serve_until_stopped(source: str, config: ServingConfig, **options: Any) -> None:
    """Serve until SIGTERM or SIGINT; a second one does not wait for what is being computed.

    Raises: see `PolicyServer`; OSError where the port is taken.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("qseq.serving").setLevel(logging.INFO)
    sys.setswitchinterval(SWITCH_INTERVAL)
    server = PolicyServer(source, config, **options)
    asyncio.run(_run(server, source))


async def _run(server: PolicyServer, source: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stopped() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)  # a second one ends the process
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped)
    async with server:
        host = f"[{server.config.host}]" if ":" in server.config.host else server.config.host
        print(f"serving {source} at ws://{host}:{server.port}, live page at http://{host}:{server.port}", flush=True)
        await stop.wait()
    print("stopped", flush=True)
