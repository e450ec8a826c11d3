"""Small environments with unusual spaces."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Grid(gym.Env[Any, Any]):
    """MultiDiscrete actions, nested Dict observations, a mission; succeeds when both actions are 1 in a row."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, length: int = 5, break_at: int | None = None, render_mode: str | None = None) -> None:
        self.observation_space = gym.spaces.Dict(
            {
                "arm": gym.spaces.Dict({"place": gym.spaces.Box(-1, 1, (2,), np.float64)}),
                "camera": gym.spaces.Box(0, 255, (4, 4, 3), np.uint8),
                "facing": gym.spaces.Discrete(4),
                "mission": gym.spaces.Text(20),
            }
        )
        self.action_space = gym.spaces.MultiDiscrete([3, 2])
        self.length, self.break_at, self.render_mode = length, break_at, render_mode
        self.time = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.time = 0
        self.place = self.np_random.uniform(-1, 1, 2)
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        if self.time == self.break_at:
            self.place = np.array([np.nan, 0.0])
        done = self.time >= self.length
        return self._observe(), float(action[1]), done, done, {"is_success": bool(action[0] == 1 and action[1] == 1)}

    def render(self) -> Any:
        return np.full((17, 17, 3), self.time * 20, np.uint8)

    def _observe(self) -> dict[str, Any]:
        picture = np.full((4, 4, 3), self.time, np.uint8)
        return {
            "arm": {"place": self.place},
            "camera": picture,
            "facing": self.time % 4,
            "mission": f"wait {self.time}",
        }


class TupleActions(gym.Env[Any, Any]):
    """Actions that are not supported."""

    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Tuple((gym.spaces.Discrete(2), gym.spaces.Discrete(2)))


for name, entry in {"toys/grid-v0": Grid, "toys/tuple-v0": TupleActions}.items():
    if name not in gym.registry:
        gym.register(name, entry_point=entry)
