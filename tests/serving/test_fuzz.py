"""A thousand of the messages of benchmarks/serving_fuzz.py, while a robot is served beside them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from websockets.exceptions import ConnectionClosed

from qseq.serving import Limits
from support.scripts import load_script
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import SECONDS, Robot, running, save, states

MESSAGES, WIDTH = 1000, 3


def test_hostile_messages_change_nothing_for_others(tmp_path: Path) -> None:
    module, generator = load_script("benchmarks/_hostile.py"), random.Random(0)
    policy = make_policy(history=2)
    answers = {"actions": 0, "errors": 0, "ended": 0}
    with running(save(policy, tmp_path / "policy"), limits=Limits(requests_per_second=0)) as server:
        with Robot(server.port) as robot:
            enemy = Robot(server.port)
            for number in range(MESSAGES):
                try:
                    enemy.socket.send(module.message(generator, WIDTH))
                    kind = "errors" if isinstance(enemy.socket.recv(SECONDS), str) else "actions"
                except ConnectionClosed:
                    kind, enemy = "ended", Robot(server.port)
                answers[kind] += 1
                if number % 50 == 0:
                    state = states(1, seed=number)[0]
                    np.testing.assert_array_equal(robot.actions({"state": state})[0], policy.act({"state": state}))
            enemy.socket.close()
        assert b'qseq_errors_total{kind="server"}' not in server.server.metrics.text()
    assert min(answers.values()) > 100
