"""Which client a page is shown, and how often."""

from __future__ import annotations

import asyncio
import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from qseq.serving.engine import Answer, Work
from qseq.serving.live import LiveHub, LivePage
from qseq.serving.requests import Request
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import SECONDS, Robot, running, save, states


def work(client: int) -> Work:
    return Work(client=client, request=Request(frames={"state": np.zeros(3, np.float32)}))


ANSWER = Answer(actions=np.zeros((1, 2), np.float32), step=None, seconds=0.0, batch_size=1)


def test_a_page_stays_with_its_client_until_it_is_silent_or_another_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("qseq.serving.live.time.monotonic", lambda: now[0])

    async def story() -> list[list[int]]:
        hub, page = LiveHub(), LivePage()
        hub.pages.add(page)
        seen: list[list[int]] = []

        def batch(*clients: int, after: float) -> None:
            now[0] += after
            works = [work(client) for client in clients]
            seen.append(list(hub.watched(works)))
            for one in works:
                hub.publish(one, ANSWER, steps=1, waited=0.0)

        batch(1, 2, after=0.0)
        batch(1, 2, after=0.05)  # too soon
        batch(2, after=0.1)  # another one
        batch(2, 1, after=0.1)
        batch(2, after=2.1)  # the first has been silent
        page.chosen = 7
        batch(2, after=0.2)
        batch(7, after=0.2)
        assert json.loads(await page.picture())["client"] == 7  # the newest; a slow page misses the others
        return seen

    assert asyncio.run(story()) == [[1], [], [], [1], [2], [], [7]]


def test_without_a_page_no_values_are_computed(tmp_path: Path) -> None:
    with running(save(make_policy(), tmp_path / "policy")) as server, Robot(server.port) as robot:
        shown: Any = server.server._engine.policy.decisions_shown
        robot.infer({"state": states(1)[0]})
        assert shown._kept == {}
        with connect(f"ws://127.0.0.1:{server.port}/live", proxy=None) as page:
            page.send(json.dumps({"key": ""}))
            assert "metadata" in json.loads(page.recv())
            robot.infer({"state": states(1)[0], "prompt": "push"})
            while "values" not in (picture := json.loads(page.recv())):
                pass
            assert picture["instruction"] == "push"
            assert [len(value["scores"]) for value in picture["values"]] == [16, 16]
            page.send("[" * 1999)
            with contextlib.suppress(ConnectionClosed):
                while True:
                    page.recv(SECONDS)
            assert page.close_code == 1008
