"""`qseq serve` as a process: where it listens, how it stops, and clients that come back."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from qseq.cli.main import main
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import SECONDS, Robot, save, states


@contextmanager
def process(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server, and the port it says it listens at."""
    command = [sys.executable, "-m", "qseq.cli.main", "serve", str(folder), "--threads", "1", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line.startswith(f"serving {folder} at ws://127.0.0.1:"), server.communicate()
        yield server, int(line.split(",")[0].rpartition(":")[2])
    finally:
        server.kill()
        server.communicate()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


def reconnected(port: int) -> Robot:
    """As a robot does whose server went away."""
    end = time.monotonic() + SECONDS
    while True:
        try:
            return Robot(port)
        except OSError:
            assert time.monotonic() < end
            time.sleep(0.05)


def test_killed_and_started_again_robots_come_back(tmp_path: Path) -> None:
    folder = save(make_policy(history=2), tmp_path / "policy")
    port = free_port()
    policy = make_policy(history=2)
    with process(folder, "--port", str(port)) as (server, _):
        robot = Robot(port)
        np.testing.assert_array_equal(robot.actions({"state": states(1)[0]})[0], policy.act({"state": states(1)[0]}))
        server.send_signal(signal.SIGKILL)
        server.wait(SECONDS)
        with pytest.raises((ConnectionClosed, OSError)):
            robot.infer({"state": states(1)[0]})
    with process(folder, "--port", str(port)) as (server, _):
        robot = reconnected(port)
        policy.reset()
        for state in states(3):
            np.testing.assert_array_equal(robot.actions({"state": state})[0], policy.act({"state": state}))
        server.send_signal(signal.SIGTERM)
        with pytest.raises(ConnectionClosed) as closed:
            robot.answer()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        assert server.wait(SECONDS) == 0
        assert server.stdout is not None
        assert server.stdout.read() == "stopped\n"


def test_wrong_requests_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("QSEQ_API_KEY", raising=False)
    folder = str(save(make_policy(), tmp_path / "policy"))
    (tmp_path / "key").write_text("short")
    for arguments, expected in {
        (str(tmp_path / "nowhere"),): "found no such folder",
        (folder, "--host", "0.0.0.0"): "without an API key",
        (folder, "--rename", "image"): "--rename: found 'image', expected THEIRS=OURS",
        (folder, "--rename", "image=picture"): "found 'picture', expected one of state",
        (folder, "--api-key-file", str(tmp_path / "key")): "expected at least 16",
        (folder, "--max-wait-ms", "-1"): "max_wait_ms: found -1.0",
        (folder, "--port", "70000"): "port: found 70000",
        (folder, "--max-rate", "-1"): "limits.requests_per_second: found -1.0",
    }.items():
        assert main(["serve", *arguments]) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert error.count("\n") == 1
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["serve", folder, "--port", str(taken.getsockname()[1])]) == 1
    assert "address already in use" in capsys.readouterr().err
