"""Robots are answered with exactly the actions the policy would have taken in their own process."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.policies import Policy
from qseq.serving.engine import Answer, Engine, Work
from qseq.serving.requests import Request
from tests.policies.test_cameras_and_instructions import make_policy as make_camera_policy
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import RefusedError, Robot, running, save, states, until

ROBOTS, STEPS = 4, 12


def test_a_robot_is_told_of_the_policy_first(tmp_path: Path) -> None:
    with running(save(make_policy(history=2), tmp_path / "policy")) as server, Robot(server.port) as robot:
        told = robot.metadata
    assert told["observation"] == {"state": {"shape": [3], "dtype": "float32"}}
    assert told["action_space"]["type"] == "box"
    assert told["algorithm"] == "q-transformer"
    assert (told["history"], told["horizon"], told["step"]) == (2, 1, None)


def test_several_robots_at_once_get_the_actions_of_their_own_histories(tmp_path: Path) -> None:
    """Each tells other things, resets at other times and is answered in whatever batches happen."""
    folder = save(make_policy(history=3), tmp_path / "policy")
    texts = ["push", "pull", "", "push"]
    found: dict[int, list[np.ndarray]] = {robot: [] for robot in range(ROBOTS)}
    sizes: set[int] = set()

    def drive(port: int, number: int) -> None:
        with Robot(port) as robot:
            for step, state in enumerate(states(STEPS, seed=number)):
                answer = robot.infer({"state": state, "prompt": texts[number], "reset": step == 3 + number})
                found[number].append(answer["actions"])
                sizes.add(answer["server_timing"]["batch_size"])

    with running(folder, max_wait_ms=200.0) as server:
        threads = [threading.Thread(target=drive, args=(server.port, number)) for number in range(ROBOTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert max(sizes) > 1
    for number in range(ROBOTS):
        policy = make_policy(history=3)
        for step, state in enumerate(states(STEPS, seed=number)):
            if step == 3 + number:
                policy.reset()
            np.testing.assert_array_equal(found[number][step], policy.act({"state": state}, texts[number])[None])


def test_a_new_connection_is_a_new_episode_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with running(save(make_policy(history=3), tmp_path / "policy")) as server:
        first = []
        for _ in range(2):
            with Robot(server.port) as robot:
                first.append([robot.actions({"state": state}) for state in states(3)])
        np.testing.assert_array_equal(*first)
        policy: Any = server.server._engine.policy
        until(lambda: not policy._memory._frames)  # the server learns a moment later that a connection has ended


def test_chunks_are_answered_whole_and_carried_on_with_where_asked(tmp_path: Path) -> None:
    """A robot that shows every observation gets what the policy would do in its process, also between decisions."""
    folder = save(make_policy(history=2, chunk=3), tmp_path / "policy")
    with running(folder) as server, Robot(server.port) as robot:
        assert robot.metadata["horizon"] == 3
        policy = make_policy(history=2, chunk=3)
        expected = [policy.act({"state": state}) for state in states(6)]
        answers = [robot.actions({"state": state, "continue": True}) for state in states(6)]
        assert [len(answer) for answer in answers] == [3, 2, 1, 3, 2, 1]
        np.testing.assert_array_equal([answer[0] for answer in answers], expected)
        policy.reset()
        fresh = [robot.actions({"state": state, "reset": n == 0}) for n, state in enumerate(states(3))]
        for answer, state in zip(fresh, states(3), strict=True):
            policy.drop_pending([0])
            first = policy.act({"state": state})
            np.testing.assert_array_equal(answer, [first, *policy.pending(0)])


def test_cameras_of_bytes_and_of_floats_are_decided_in_one_batch_without_mixing() -> None:
    policy = make_camera_policy(history=1)
    image = np.random.default_rng(0).integers(0, 256, (3, 16, 16)).astype(np.uint8)
    frames = [image, image.astype(np.float32) / 255]
    works = [Work(client=n, request=Request(frames={"image": frame})) for n, frame in enumerate(frames)]
    answers = Engine(policy, None).decide(works)
    for answer, frame in zip(answers, frames, strict=True):
        assert isinstance(answer, Answer)
        np.testing.assert_array_equal(answer.actions[0], make_camera_policy(history=1).act({"image": frame}))


def test_a_wrong_request_spoils_no_other_of_its_batch() -> None:
    policy = make_camera_policy(history=1, needs_instruction=True)
    image = np.zeros((3, 16, 16), np.uint8)
    works = [
        Work(client=n, request=Request(frames={"image": image}, instruction=text))
        for n, text in enumerate(["push", None, "push"])
    ]
    first, second, third = Engine(policy, None).decide(works)
    assert isinstance(first, Answer)
    assert isinstance(third, Answer)
    assert "instruction: found none" in str(second)
    np.testing.assert_array_equal(first.actions, third.actions)


def test_a_wrong_request_is_said_and_the_connection_goes_on(tmp_path: Path) -> None:
    with running(save(make_policy(history=2), tmp_path / "policy")) as server, Robot(server.port) as robot:
        policy = make_policy(history=2)
        for state in states(4):
            with pytest.raises(RefusedError, match="field 'state' is missing"):
                robot.infer({"camera": state})
            with pytest.raises(RefusedError, match="expected numbers or booleans"):
                robot.infer({"state": state, **TEXT_ARRAY})
            np.testing.assert_array_equal(robot.actions({"state": state})[0], policy.act({"state": state}))


TEXT_ARRAY = {"name": {b"__ndarray__": True, b"dtype": "<U1", b"shape": [1], b"data": bytes(4)}}


def test_a_policy_that_fails_is_said_and_others_are_served_on(tmp_path: Path, caplog: Any) -> None:
    with running(save(make_policy(), tmp_path / "policy")) as server, Robot(server.port) as robot:
        engine = server.server._engine
        policy = engine.policy

        class Failing:
            def __getattr__(self, name: str) -> Any:
                return getattr(policy, name)

            def act(self, *_: Any, **__: Any) -> Any:
                raise ZeroDivisionError("at\nsome place")

        failing: Any = Failing()
        engine.policy = failing
        with pytest.raises(RefusedError, match="the policy failed"):
            robot.infer({"state": states(1)[0]})
        engine.policy = policy
        assert robot.actions({"state": states(1)[0]}).shape == (1, 2)


@pytest.mark.parametrize("history", [1, 2])
def test_openpis_own_client_is_served(tmp_path: Path, history: int) -> None:
    client = pytest.importorskip("openpi_client.websocket_client_policy", reason="openpi-client is not installed")
    broker = pytest.importorskip("openpi_client.action_chunk_broker", reason="openpi-client is not installed")
    policy: Policy = make_policy(history=history, chunk=1 if history > 1 else 3)
    with running(save(policy, tmp_path / "policy"), api_key="k" * 16) as server:
        robot = client.WebsocketClientPolicy("127.0.0.1", server.port, api_key="k" * 16)
        acting = broker.ActionChunkBroker(robot, robot.get_server_metadata()["horizon"])
        for state in states(7):
            np.testing.assert_array_equal(
                acting.infer({"state": state, "prompt": "push"})["actions"], policy.act({"state": state}, "push")
            )
