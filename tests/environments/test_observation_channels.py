"""Pictures come channels first, whatever the environment's own order."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from qseq.environments.observation import DictObservation


class Pictures(gym.Env[Any, Any]):
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.observation_space = gym.spaces.Box(0, 255, shape, np.uint8)
        self.action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        size = int(np.prod(self.observation_space.shape or ()))
        return (np.arange(size) % 251).astype(np.uint8).reshape(self.observation_space.shape), {}


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((8, 6, 3), (3, 8, 6)), ((8, 6, 1), (1, 8, 6)), ((8, 6, 4), (4, 8, 6)), ((3, 8, 6), (3, 8, 6)), ((4, 9, 9),) * 2],
)
def test_channels_come_first(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    env = Pictures(shape)
    original, _ = env.reset()
    wrapped = DictObservation(env)
    picture = wrapped.reset()[0]["state"]
    assert wrapped.observation_space["state"].shape == picture.shape == expected
    assert picture.flags.c_contiguous
    np.testing.assert_array_equal(picture, original if shape == expected else np.moveaxis(original, -1, 0))
