"""How a policy is served, and how much of the server one client may take."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from qseq.errors import RequestError


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What is refused, so that no client can stop the others from being served.

    Raises:
        RequestError: a negative number.
    """

    message_bytes: int = 0
    """Longest message; 0: four times what the policy reads in float32, and 64 KiB."""
    depth: int = 8
    """Maps and lists within each other."""
    items: int = 20_000
    """Entries of all maps and lists of a message together; arrays count as one."""
    list_items: int = 4096
    """Entries of one list."""
    instruction: int = 2000
    """Characters of an instruction."""
    connections: int = 128
    """Clients at a time; pages that look on are counted apart."""
    pages: int = 8
    """Pages that look on at a time."""
    requests_per_second: float = 200.0
    """Of one client; one that asks more often is answered later. 0 does not limit."""
    burst: int = 50
    """Requests that a client may ask at once before it is made to wait."""
    open_seconds: float = 10.0
    """For a client to say what it wants, from the first byte on."""
    ping_seconds: float = 20.0
    """A client that has not answered a ping for so long is gone."""
    send_seconds: float = 10.0
    """For a client to take an answer."""
    stop_seconds: float = 10.0
    """For what is being computed when the server is stopped."""

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not (value := getattr(self, limit.name)) >= 0:
                raise RequestError(f"limits.{limit.name}: found {value}, expected at least 0")


@dataclass(frozen=True, kw_only=True)
class ServingConfig:
    """Settings of a server.

    Raises:
        RequestError: a number that makes no sense.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    """0 takes any free one."""
    max_batch: int = 64
    """Requests decided together."""
    max_wait_ms: float = 2.0
    """How long a request waits for those of other clients; not at all when every client waits already."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """A client's name of a field -> the policy's, such as {"observation/image": "image"}."""
    api_key: str | None = None
    """What clients must know; None lets everybody in."""
    insecure: bool = False
    """Serve other machines without a key."""
    reload_seconds: float = 2.0
    """How often to look for a newer checkpoint of the run; 0 never looks."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise RequestError(f"port: found {self.port}, expected 0 to 65535")
        if self.max_batch < 1:
            raise RequestError(f"max_batch: found {self.max_batch}, expected at least 1")
        for name in ("max_wait_ms", "reload_seconds"):
            if not getattr(self, name) >= 0:
                raise RequestError(f"{name}: found {getattr(self, name)}, expected at least 0")
