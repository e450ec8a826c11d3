"""A scripted ball: from cell to cell along the shortest way, pushed towards the next one, with an unsteady hand.

`collect --policy scripted:qseq.environments.pointmaze_controller:waypoint_controller`; the protocol is that of
`qseq.environments.scripted`.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from qseq.environments.disturbances import CorrelatedNoise, Fumbles
from qseq.environments.pointmaze import PointMaze
from qseq.environments.scripted import Observation
from qseq.errors import RequestError


class WaypointController:
    """Goes to the goal through the middles of the cells between, as a spring with a damper.

    Args:
        env: the environment, a `PointMaze` below any wrappers; its map is read, and nothing else.
        rng: source of all randomness.
        gain: force for each metre to the next waypoint.
        damping: force against each metre a second.
        noise_scale, noise_correlation: of the force, see `CorrelatedNoise`; no noise by default.
        random_probability, random_steps: share of the steps whose action is random, and how long one is held.

    Raises:
        RequestError: an argument is out of its range, or the environment is not a PointMaze.
    """

    def __init__(
        self,
        env: gym.Env[Any, Any],
        rng: np.random.Generator,
        *,
        gain: float = 10.0,
        damping: float = 1.0,
        noise_scale: float = 0.0,
        noise_correlation: float = 0.9,
        random_probability: float = 0.0,
        random_steps: int = 10,
    ) -> None:
        world = env.unwrapped
        if not isinstance(world, PointMaze):
            raise RequestError(
                f"waypoint_controller acts in PointMaze only, found {type(world).__name__}; "
                "use --env qseq.environments.pointmaze:qseq/pointmaze-v0 or another policy"
            )
        if gain <= 0 or damping < 0 or noise_scale < 0 or not 0 <= noise_correlation < 1:
            raise RequestError(
                f"waypoint_controller: gain={gain}, damping={damping}, noise_scale={noise_scale}, "
                f"noise_correlation={noise_correlation}: expected a positive gain, nothing negative, correlation < 1"
            )
        self._map = world.map
        self._gain, self._damping = gain, damping
        self._noise = CorrelatedNoise(rng, noise_scale, noise_correlation, 2)
        self._fumbles = Fumbles(
            rng,
            lambda: rng.uniform(-1.0, 1.0, 2),
            probability=random_probability,
            steps=random_steps,
            who="waypoint_controller",
        )

    def reset(self, observation: Observation, info: dict[str, Any]) -> None:
        """Nothing is kept from step to step: the way is looked up anew, wherever the ball was thrown."""

    def act(self, observation: Observation) -> npt.NDArray[np.float32]:
        """The force [2], within [-1, 1]."""
        state = np.asarray(observation["observation"], dtype=np.float64)
        target = self._waypoint(state[:2], np.asarray(observation["desired_goal"], dtype=np.float64))
        force = self._gain * (target - state[:2]) - self._damping * state[2:] + self._noise()
        fumble, _ = self._fumbles()
        return np.clip(force if fumble is None else fumble, -1.0, 1.0).astype(np.float32)

    def _waypoint(self, place: npt.NDArray[np.float64], goal: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        last = self._map.cell_at(goal)
        following = self._map.next_cell(self._map.cell_at(place), last)
        return goal if following == last else self._map.centre(following)


waypoint_controller = WaypointController
