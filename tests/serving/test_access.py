"""Who is let in, and how much of the server one client may take."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from qseq.errors import RequestError
from qseq.serving import Limits, PolicyServer, ServingConfig
from qseq.serving.codec import pack
from qseq.serving.rate import TokenBucket
from qseq.serving.security import page_may_connect, read_api_key
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import RefusedError, Robot, running, save, states, status_of

KEY = "0123456789abcdef"
STATE = {"state": states(1)[0]}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(make_policy(), tmp_path_factory.mktemp("served") / "policy")


def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_without_the_key_nobody_is_served(folder: Path) -> None:
    with running(folder, api_key=KEY) as server:
        assert status_of(server.port) == 401
        assert status_of(server.port, key=KEY[:-1] + "0") == 401
        assert status_of(server.port, key=KEY + "0") == 401
        assert status_of(server.port, key=KEY) == 101
        assert get(server.port, "/healthz") == (200, "OK\n")
        assert get(server.port, "/metrics")[0] == 401
        status, text = get(server.port, "/metrics", Authorization=f"Api-Key {KEY}")
        assert status == 200
        assert 'qseq_refused_connections_total{reason="key"} 4.0' in text
        with connect(f"ws://127.0.0.1:{server.port}/live", proxy=None) as page:
            page.send('{"key": "wrong"}')
            assert page.recv() == '{"error": "wrong API key"}'
            with pytest.raises(ConnectionClosed):
                page.recv()


def test_other_machines_are_served_only_with_a_key_or_when_asked_for(folder: Path) -> None:
    for host in ("0.0.0.0", "::", "192.168.1.5", "robot.example"):
        with pytest.raises(RequestError, match="without an API key; set QSEQ_API_KEY"):
            PolicyServer(str(folder), ServingConfig(host=host))
    PolicyServer(str(folder), ServingConfig(host="0.0.0.0", api_key=KEY))
    PolicyServer(str(folder), ServingConfig(host="0.0.0.0", insecure=True))


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QSEQ_API_KEY", raising=False)
    assert read_api_key(None) is None
    monkeypatch.setenv("QSEQ_API_KEY", KEY)
    assert read_api_key(None) == KEY
    (tmp_path / "key").write_text(KEY[::-1] + "\n")
    assert read_api_key(tmp_path / "key") == KEY[::-1]
    for content in ("", "short", "with spaces in the middle"):
        (tmp_path / "key").write_text(content)
        with pytest.raises(RequestError, match="expected at least 16 printable ones"):
            read_api_key(tmp_path / "key")
    with pytest.raises(RequestError, match="cannot be read"):
        read_api_key(tmp_path / "nowhere")


def test_pages_of_others_cannot_reach_a_server_through_a_browser(folder: Path) -> None:
    assert page_may_connect(None, "127.0.0.1:8000", by_name=False)
    assert page_may_connect("http://localhost:8000", "localhost:8000", by_name=False)
    assert page_may_connect("http://[::1]:8000", "[::1]:8000", by_name=False)
    assert not page_may_connect("http://evil.example", "127.0.0.1:8000", by_name=False)
    assert not page_may_connect("null", "127.0.0.1:8000", by_name=False)
    assert not page_may_connect("http://evil.example:8000", "evil.example:8000", by_name=False)  # a name for 127.0.0.1
    assert page_may_connect("http://robot.example:8000", "robot.example:8000", by_name=True)
    with running(folder) as server:
        for path in ("/", "/live"):
            with pytest.raises(InvalidStatus) as refused:
                connect(f"ws://127.0.0.1:{server.port}{path}", origin="http://evil.example", proxy=None)
            assert refused.value.response.status_code == 403
        assert get(server.port, "/metrics", Host="evil.example")[0] == 403
        assert get(server.port, "/../secrets")[0] == 404
        assert status_of(server.port, path="/nowhere") == 404


def test_what_breaks_the_protocol_ends_the_connection_with_a_line(folder: Path) -> None:
    with running(folder) as server:
        for message in (b"\xc1", b"\x90", "text", b"\x81\xa1x" + b"\x91" * 100 + b"\x01"):
            with Robot(server.port) as robot:
                robot.socket.send(message)
                with pytest.raises(RefusedError, match="message: found"):
                    robot.answer()
                with pytest.raises(ConnectionClosed):
                    robot.answer()
        with Robot(server.port) as robot:
            robot.socket.send(bytes(100_000))  # more than four times what the policy reads, and 64 KiB
            with pytest.raises(ConnectionClosed) as closed:
                robot.answer()
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1009
        with Robot(server.port) as robot:
            assert robot.actions(STATE).shape == (1, 2)


def test_clients_beyond_the_limit_are_refused_until_one_goes(folder: Path) -> None:
    with running(folder, limits=Limits(connections=1, pages=0)) as server:
        with Robot(server.port) as robot:
            robot.actions(STATE)
            assert status_of(server.port) == 503
            assert status_of(server.port, path="/live") == 503
        while server.server._clients:
            pass
        assert status_of(server.port) == 101


def test_connections_that_say_nothing_do_not_keep_others_out(folder: Path) -> None:
    """Half-open ones are cut off when they are too many, and when they have said nothing for too long."""
    with running(folder, limits=Limits(connections=2, pages=0, open_seconds=2.0)) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(6)]
        for one in silent:
            one.settimeout(30)
            assert one.recv(1) == b""
        with Robot(server.port) as robot:
            assert robot.actions(STATE).shape == (1, 2)
        for one in silent:
            one.close()


def test_a_client_that_takes_no_answers_is_disconnected(folder: Path) -> None:
    """It asks and never reads: the server's buffers fill up, and it is not waited for."""
    wrong = pack({"x" * 1000: 0})  # answered with a long line
    frame = b"\x82\xfe" + len(wrong).to_bytes(2, "big") + bytes(4) + wrong  # masked with zeros
    greeting = (
        "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    )
    with running(folder, limits=Limits(send_seconds=0.3, requests_per_second=0)) as server:
        slow = socket.create_connection(("127.0.0.1", server.port), timeout=30)
        slow.sendall(greeting.encode())

        def ask_forever() -> None:
            while True:
                slow.sendall(frame)

        with pytest.raises(ConnectionError):
            ask_forever()
        with Robot(server.port) as robot:
            assert robot.actions(STATE).shape == (1, 2)
        slow.close()


def test_a_client_over_its_rate_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("qseq.serving.rate.time.monotonic", lambda: now[0])
    bucket = TokenBucket(10.0, 2)
    assert [round(bucket.delay(), 6) for _ in range(4)] == [0.0, 0.0, 0.1, 0.2]
    now[0] = 0.2  # both have waited; nothing was saved up meanwhile
    assert round(bucket.delay(), 6) == 0.1
    now[0] = 100.0
    assert [bucket.delay() for _ in range(2)] == [0.0, 0.0]
    assert TokenBucket(0.0, 1).delay() == 0.0


def test_what_happened_is_counted(folder: Path) -> None:
    with running(folder) as server, Robot(server.port) as robot:
        for _ in range(3):
            robot.infer(STATE)
        with pytest.raises(RefusedError):
            robot.infer({"other": np.zeros(3)})
        text = get(server.port, "/metrics")[1]
    found: dict[str, Any] = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert found["qseq_requests_total"] == "4.0"
    assert found['qseq_errors_total{kind="request"}'] == "1.0"
    assert found["qseq_batch_size_count"] == "3.0"
    assert found["qseq_latency_seconds_count"] == "4.0"
    assert found["qseq_clients"] == "1.0"
