"""A server that is stopped answers what is being computed, and waits for nobody else."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from qseq.serving import Limits
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import Robot, running, save, states

STATE = {"state": states(1)[0]}


def hold(policy: Any) -> tuple[threading.Event, threading.Event]:
    """Makes the policy wait: (it has begun, it may go on)."""
    begun, on = threading.Event(), threading.Event()
    act = policy.act

    def slow(*arguments: Any, **options: Any) -> Any:
        begun.set()
        assert on.wait(30)
        return act(*arguments, **options)

    policy.act = slow
    return begun, on


def test_what_is_computed_is_answered_before_the_end(tmp_path: Path) -> None:
    with running(save(make_policy(), tmp_path / "policy")) as server, Robot(server.port) as robot:
        idle = Robot(server.port)
        begun, on = hold(server.server._engine.policy)
        robot.socket.send(pack_state())
        assert begun.wait(30)
        server.stop()
        with pytest.raises(ConnectionClosed) as closed:
            idle.answer()
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1001
        on.set()
        np.testing.assert_array_equal(robot.answer()["actions"][0], make_policy().act(STATE))
        with pytest.raises(ConnectionClosed):
            robot.answer()
        server.join()
        server.join = lambda: None  # type: ignore[method-assign]
        server.stop = lambda: None  # type: ignore[method-assign]


def test_a_computation_that_does_not_end_is_not_waited_for_forever(tmp_path: Path) -> None:
    limits = Limits(stop_seconds=0.2)
    with running(save(make_policy(), tmp_path / "policy"), limits=limits) as server, Robot(server.port) as robot:
        begun, on = hold(server.server._engine.policy)
        robot.socket.send(pack_state())
        assert begun.wait(30)
        server.stop()
        with pytest.raises(ConnectionClosed):
            robot.answer()
        on.set()


def pack_state() -> bytes:
    from qseq.serving.codec import pack

    return pack(STATE)
