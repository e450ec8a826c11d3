"""Who is let in, and the few plain HTTP requests a server answers: health, metrics, the files of the live page."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from importlib.resources import files

from websockets.asyncio.server import ServerConnection
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from qseq.serving.config import ServingConfig
from qseq.serving.metrics import CONTENT_TYPE, ServingMetrics
from qseq.serving.security import is_loopback, key_matches, key_of, page_may_connect

ROBOTS, PAGES = "/", "/live"

FILES = {
    "/": ("page.html", "text/html"),
    "/live.js": ("live.js", "text/javascript"),
    "/live.css": ("live.css", "text/css"),
}

# A page that loads nothing from elsewhere, runs no script but its own, and is shown inside of no other.
GUARDS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Doorkeeper:
    """Answers every request but those that become connections of robots or pages.

    Args:
        clients, pages: how many are connected.
    """

    def __init__(
        self,
        config: ServingConfig,
        metrics: ServingMetrics,
        *,
        clients: Callable[[], int],
        pages: Callable[[], int],
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._clients = clients
        self._pages = pages
        self._by_name = config.api_key is not None or not is_loopback(config.host)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """None lets the connection in."""
        headers, path = request.headers, request.path.partition("?")[0]
        # Of a header that is sent twice nothing is believed.
        host, origin, authorization = (
            values[0] if len(values := headers.get_all(name)) == 1 else ("" if values else None)
            for name in ("Host", "Origin", "Authorization")
        )
        if "Upgrade" not in headers:
            return self._plain(path, host, origin, authorization)
        if not page_may_connect(origin, host, by_name=self._by_name):
            return self._refuse("origin", HTTPStatus.FORBIDDEN, "Origin: another page than the server's own\n")
        if path == PAGES:  # says the key in its first message: browsers cannot send it here
            return self._full(self._pages(), self._config.limits.pages)
        if path != ROBOTS:
            return response(HTTPStatus.NOT_FOUND, f"expected {ROBOTS} or {PAGES}\n")
        if not key_matches(self._config.api_key, key_of(authorization)):
            return self._wrong_key()
        return self._full(self._clients(), self._config.limits.connections)

    def _plain(self, path: str, host: str | None, origin: str | None, authorization: str | None) -> Response:
        if path == "/healthz":
            return response(HTTPStatus.OK, "OK\n")
        if not page_may_connect(origin or f"http://{host}", host, by_name=self._by_name):
            return self._refuse("origin", HTTPStatus.FORBIDDEN, "Host: expected localhost or an address\n")
        if path == "/metrics":
            if not key_matches(self._config.api_key, key_of(authorization)):
                return self._wrong_key()
            return response(HTTPStatus.OK, self._metrics.text(), CONTENT_TYPE)
        if path == "/favicon.ico":
            return response(HTTPStatus.NO_CONTENT, "")
        return page_file(path) or response(HTTPStatus.NOT_FOUND, "not found\n")

    def _full(self, found: int, most: int) -> Response | None:
        if found < most:
            return None
        return self._refuse(
            "full", HTTPStatus.SERVICE_UNAVAILABLE, f"connections: found {found}, the most there may be\n"
        )

    def _wrong_key(self) -> Response:
        return self._refuse("key", HTTPStatus.UNAUTHORIZED, "Authorization: expected 'Api-Key' and the key\n")

    def _refuse(self, reason: str, status: HTTPStatus, text: str) -> Response:
        self._metrics.refused.labels(reason).inc()
        return response(status, text)


def response(status: HTTPStatus, body: bytes | str, content_type: str = "text/plain; charset=utf-8") -> Response:
    """An answer that ends the connection."""
    content = body.encode() if isinstance(body, str) else body
    headers = Headers(
        {"Content-Type": content_type, "Content-Length": str(len(content)), "Connection": "close", **GUARDS}
    )
    return Response(status.value, status.phrase, headers, content)


def page_file(path: str) -> Response | None:
    """A file of the live page, or None."""
    if path not in FILES:
        return None
    name, content_type = FILES[path]
    content = (files("qseq.serving") / "page" / name).read_bytes()
    return response(HTTPStatus.OK, content, f"{content_type}; charset=utf-8")
