"""Who may connect: the key, the interface, and which web pages."""

from __future__ import annotations

import hmac
import ipaddress
import os
from pathlib import Path
from urllib.parse import urlsplit

from qseq.errors import RequestError

KEY_VARIABLE = "QSEQ_API_KEY"
SHORTEST_KEY = 16


def read_api_key(file: Path | None) -> str | None:
    """The key from a file or, without one, from the environment variable QSEQ_API_KEY. None: there is none.

    Raises:
        RequestError: the file cannot be read, or what it holds is no key.
    """
    if file is None:
        key, where = os.environ.get(KEY_VARIABLE, ""), KEY_VARIABLE
        if not key:
            return None
    else:
        where = str(file)
        try:
            key = file.read_text(encoding="ascii").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise RequestError(f"--api-key-file: {file} cannot be read as a key ({error})") from error
    if len(key) < SHORTEST_KEY or not key.isascii() or not key.isprintable() or " " in key:
        raise RequestError(
            f"{where}: found a key of {len(key)} characters, expected at least {SHORTEST_KEY} printable ones without "
            "spaces, such as `openssl rand -hex 32` gives"
        )
    return key


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the interface."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_bind(host: str, api_key: str | None, *, insecure: bool) -> None:
    """Raises RequestError where strangers could move the robot: other machines reach it, and there is no key."""
    if api_key is None and not insecure and not is_loopback(host):
        raise RequestError(
            f"host: found {host}, which other machines reach, without an API key; set {KEY_VARIABLE} or "
            "--api-key-file, or ask for it with --insecure"
        )


def key_matches(expected: str | None, given: str | None) -> bool:
    """In a time that does not tell how much of it is right."""
    return expected is None or hmac.compare_digest(expected.encode(), (given or "").encode(errors="replace"))


def key_of(authorization: str | None) -> str | None:
    """The key of an Authorization header: `Api-Key KEY`."""
    scheme, _, key = (authorization or "").partition(" ")
    return key.strip() if scheme.lower() == "api-key" else None


def page_may_connect(origin: str | None, host: str | None, *, by_name: bool) -> bool:
    """Whether a browser's page may: only the server's own. Programs that are no browsers send no origin.

    A page elsewhere could otherwise reach a server on the loopback interface through its visitor's browser, also under
    a name of its own that it has made to mean 127.0.0.1: names are trusted only where `by_name` says so.
    """
    if origin is None:
        return True
    if host is None or urlsplit(origin).netloc != host:
        return False
    name = urlsplit(f"//{host}").hostname or ""
    return by_name or name == "localhost" or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
