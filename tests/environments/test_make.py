"""Any Gymnasium environment in one form, and clear words where that cannot be."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from qseq.environments import make_environment, space_from_json, space_to_json
from qseq.errors import RequestError

GRID = "tests.environments.toys:toys/grid-v0"


def test_plain_box_becomes_state() -> None:
    env = make_environment("Pendulum-v1")
    observation, _ = env.reset(seed=0)
    assert list(observation) == ["state"]
    assert observation["state"].dtype == np.float32
    observation, reward, *_ = env.step(np.array([0.5]))
    assert observation["state"].shape == (3,)
    assert isinstance(reward, float)


def test_discrete_actions_come_as_any_integer() -> None:
    env = make_environment("CartPole-v1")
    env.reset(seed=0)
    for action in (1, np.int64(0), np.array(1), np.array([0])):
        env.step(action)


def test_nested_dict_text_and_discrete_observations() -> None:
    env = make_environment(GRID)
    observation, info = env.reset(seed=0)
    assert {name: value.shape for name, value in observation.items()} == {
        "arm/place": (2,),
        "camera": (3, 4, 4),
        "facing": (4,),
    }
    assert observation["camera"].dtype == np.uint8
    assert observation["arm/place"].dtype == np.float32
    assert info["instruction"] == "wait 0"
    observation, _, _, _, info = env.step(np.array([0, 1]))
    assert observation["facing"].tolist() == [0, 1, 0, 0]
    assert info["instruction"] == "wait 1"
    assert env.observation_space.contains(observation)


def test_never_both_terminated_and_truncated() -> None:
    env = make_environment(GRID, {"length": 1})
    env.reset(seed=0)
    _, _, terminated, truncated, _ = env.step(np.array([0, 0]))
    assert terminated
    assert not truncated


def test_time_limit_is_an_environment_argument() -> None:
    env = make_environment("Pendulum-v1", {"max_episode_steps": 3})
    env.reset(seed=0)
    assert [env.step(np.zeros(1))[3] for _ in range(3)] == [False, False, True]


@pytest.mark.parametrize(
    ("env_id", "kwargs", "words"),
    [
        ("CartPool-v1", {}, ["CartPool-v1", "CartPole-v1"]),
        ("no.such.module:thing-v0", {}, ["no", "before the colon"]),
        ("Meta-World/push", {}, ["qseq.environments.metaworld:qseq/metaworld-v3"]),
        ("CartPole-v1", {"colour": "red"}, ["colour", "--env-kwargs"]),
        ("tests.environments.toys:toys/tuple-v0", {}, ["Tuple", "expected Box, Discrete or MultiDiscrete"]),
    ],
)
def test_wrong_requests(env_id: str, kwargs: dict[str, object], words: list[str]) -> None:
    with pytest.raises(RequestError) as error:
        make_environment(env_id, kwargs)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "space",
    [
        gym.spaces.Box(np.array([-1, -np.inf], np.float32), np.array([np.inf, 2], np.float32), dtype=np.float32),
        gym.spaces.Box(-1.0, 1.0, (2, 3), np.float64),
        gym.spaces.Discrete(5, start=2),
        gym.spaces.MultiDiscrete([3, 4], start=[1, 0]),
    ],
)
def test_spaces_survive_json(space: gym.Space[object]) -> None:
    import json

    description = json.loads(json.dumps(space_to_json(space), allow_nan=False))
    assert space_from_json(description) == space


def test_infinite_bounds_are_strings() -> None:
    description = space_to_json(gym.spaces.Box(-np.inf, np.inf, (2,), np.float32))
    assert description == {
        "type": "box",
        "low": ["-inf", "-inf"],
        "high": ["inf", "inf"],
        "shape": [2],
        "dtype": "float32",
    }


def test_other_spaces_are_refused() -> None:
    with pytest.raises(RequestError, match="expected Box, Discrete or MultiDiscrete"):
        space_to_json(gym.spaces.MultiBinary(3))
    with pytest.raises(RequestError, match="type 'circle'"):
        space_from_json({"type": "circle"})
