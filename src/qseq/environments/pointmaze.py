"""A ball that is pushed through a maze to one goal after the other: `qseq/pointmaze-v0`.

Made with `make_environment("qseq.environments.pointmaze:qseq/pointmaze-v0", {"task": "medium"})`. It is
gymnasium-robotics' PointMaze with `continuing_task=True, reset_target=True`, in which it is known from which cells to
which goals a run may lead: 100 start-goal pairs are held out for evaluation. On one core about 12 000 steps a second.
"""

from __future__ import annotations

import logging
import sys
from functools import cache
from typing import Any, Literal, get_args

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from qseq.environments.maze_map import Cell, MazeMap
from qseq.environments.task_names import checked_tasks
from qseq.errors import RequestError

ENV_ID = "qseq/pointmaze-v0"
BASE_IDS = {"umaze": "PointMaze_UMaze-v3", "medium": "PointMaze_Medium-v3", "large": "PointMaze_Large-v3"}
TASKS = tuple(BASE_IDS)
DEFAULT_STEPS = {"umaze": 300, "medium": 600, "large": 800}
HELD_OUT_PAIRS, HELD_OUT_SEED = 100, 20_220_509
SUCCESS_RADIUS = 0.45

Pair = tuple[Cell, Cell]
Pairs = Literal["training", "held-out", "all"]
Observation = dict[str, npt.NDArray[np.float64]]


class PointMaze(gym.Env[Any, Any]):
    """A ball in a maze, pushed by a force; a goal that is reached is followed by another one, or ends the episode.

    The observation is {"observation": position and velocity [4], "achieved_goal": position [2], "desired_goal":
    [2]}, in metres and metres a second; actions are forces in [-1, 1] of the two axes. The reward is 1 within 0.45
    metres of the goal, else 0. The goal of an observation is the one that this step was about: the next one is shown
    from the next observation on. `info` holds "success", "task" and "path_length", metres travelled towards the goal.

    Args:
        task: "umaze", "medium" or "large".
        pairs: which runs from a start cell to a goal cell may be drawn: "held-out" (`held_out_pairs`, for
            evaluation), "training" (all others), or "all". With "training" this holds for every goal of the episode.
        stop_at_goal: end the episode (truncated: a goal is no end of the world) when the goal is reached.
        nearest, farthest: least and greatest number of cells from start to goal; 0 leaves the greatest open.

    Raises:
        RequestError: an argument is not valid, no pair is left, or gymnasium-robotics is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 50}  # noqa: RUF012 (Gymnasium's own type)

    def __init__(
        self,
        task: str = "medium",
        *,
        pairs: Pairs = "all",
        stop_at_goal: bool = False,
        nearest: int = 1,
        farthest: int = 0,
        render_mode: str | None = None,
    ) -> None:
        (self.task,) = checked_tasks(task, TASKS, "PointMaze")
        if pairs not in get_args(Pairs):
            raise RequestError(f"env kwarg pairs={pairs!r}: expected one of {', '.join(get_args(Pairs))}")
        for name, value in (("nearest", nearest), ("farthest", farthest)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise RequestError(f"env kwarg {name}={value!r}: expected a whole number of cells, at least 0")
        self.map = maze_map(self.task)
        self._base = _make_base(self.task, render_mode)
        self._stop_at_goal = stop_at_goal
        self.render_mode = render_mode
        self._pairs = _allowed_pairs(self.task, pairs, max(nearest, 1), farthest or self.map.diameter)
        if not self._pairs:
            raise RequestError(
                f"env kwargs pairs={pairs!r}, nearest={nearest}, farthest={farthest}: no start-goal pair is left; "
                f"'{self.task}' has a diameter of {self.map.diameter} cells"
            )
        self._goals: dict[Cell, list[Cell]] = {}
        for start, goal in self._pairs:
            self._goals.setdefault(start, []).append(goal)
        self.observation_space = self._base.observation_space
        self.action_space = self._base.action_space
        self._place = np.zeros(2)
        self._travelled = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Draw a pair and a place in each of its cells; `options={"pair": (start, goal)}` gives the cells."""
        super().reset(seed=seed)
        given = (options or {}).get("pair")
        start, goal = self._pairs[int(self.np_random.integers(len(self._pairs)))] if given is None else given
        cells = {"reset_cell": np.array(start), "goal_cell": np.array(goal)}
        observation, info = self._base.reset(seed=int(self.np_random.integers(2**31)), options=cells)
        self._place, self._travelled = observation["achieved_goal"], 0.0
        return observation, self._info(bool(info["success"]))

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, _, _, info = self._base.step(action)
        place = observation["achieved_goal"]
        self._travelled += float(np.linalg.norm(place - self._place))
        self._place = place
        reached = bool(info["success"])
        said = self._info(reached)
        if reached:
            self._draw_goal()
        return observation, float(reward), False, reached and self._stop_at_goal, said

    def render(self) -> Any:
        """The maze from above, uint8 [height, width, 3]; None unless `render_mode` is "rgb_array"."""
        return self._base.render() if self.render_mode == "rgb_array" else None

    def close(self) -> None:
        self._base.close()

    def _draw_goal(self) -> None:
        """The next goal; the environment below has drawn one of its own, which may be held out."""
        cell = self.map.cell_at(self._place)
        # A ball between two cells may be in one from which no pair leads on: then it stays for another draw.
        choices = self._goals.get(cell) or [goal for start, goal in self._pairs if goal != cell]
        goal = self.map.centre(choices[int(self.np_random.integers(len(choices)))])
        self._base.goal = self._base.add_xy_position_noise(goal)
        self._base.update_target_site_pos()
        self._travelled = 0.0

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "task": self.task, "path_length": self._travelled}


@cache
def maze_map(task: str) -> MazeMap:
    """The map of a task. Raises RequestError if gymnasium-robotics is not installed."""
    return MazeMap(gym.spec(_registered(task)).kwargs["maze_map"])


@cache
def held_out_pairs(task: str) -> tuple[Pair, ...]:
    """100 start-goal pairs of cells, more than a third of the maze's diameter apart, drawn once and for all."""
    maze = maze_map(task)
    far = [pair for pair in _all_pairs(maze) if 3 * maze.distances(pair[1])[pair[0]] > maze.diameter]
    drawn = np.random.default_rng(HELD_OUT_SEED).permutation(len(far))[: min(HELD_OUT_PAIRS, len(far) // 2)]
    return tuple(far[index] for index in sorted(drawn.tolist()))


def _allowed_pairs(task: str, pairs: Pairs, nearest: int, farthest: int) -> list[Pair]:
    maze, held_out = maze_map(task), set(held_out_pairs(task))
    return [
        pair
        for pair in _all_pairs(maze)
        if (pairs == "all" or (pair in held_out) == (pairs == "held-out"))
        and nearest <= maze.distances(pair[1])[pair[0]] <= farthest
    ]


def _all_pairs(maze: MazeMap) -> list[Pair]:
    return [(start, goal) for start in maze.free for goal in maze.free if start != goal]


def _registered(task: str) -> str:
    try:
        logging.getLogger("gymnasium_robotics").setLevel(logging.ERROR)
        import gymnasium_robotics
    except ImportError as error:
        raise RequestError(f'gymnasium-robotics cannot be imported ({error}): pip install "qseq[planner]"') from error
    if BASE_IDS[task] not in gym.registry:
        gym.register_envs(gymnasium_robotics)
    return BASE_IDS[task]


def _make_base(task: str, render_mode: str | None) -> Any:
    base: Any = gym.make(
        _registered(task),
        continuing_task=True,
        reset_target=True,
        render_mode=render_mode,
        max_episode_steps=sys.maxsize,  # the time limit is that of this environment
        disable_env_checker=True,
    )
    return base.unwrapped


if ENV_ID not in gym.registry:
    gym.register(
        ENV_ID, entry_point="qseq.environments.pointmaze:PointMaze", max_episode_steps=max(DEFAULT_STEPS.values())
    )
