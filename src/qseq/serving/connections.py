"""Connections that are counted from their first byte on: also those that never say what they want."""

from __future__ import annotations

import asyncio

from websockets.asyncio.server import ServerConnection


def counted(most: int) -> type[ServerConnection]:
    """A class of connections; those beyond `most` at a time are cut off before they are read."""
    number = 0

    class Counted(ServerConnection):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            nonlocal number
            number += 1
            super().connection_made(transport)
            if number > most:
                self.transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            nonlocal number
            number -= 1
            super().connection_lost(exc)

    return Counted
