"""Ways of collecting data in PointMaze: `qseq.environments.recipes`, for planners.

Each part is one `qseq collect --env qseq.environments.pointmaze:qseq/pointmaze-v0 --policy
scripted:qseq.environments.pointmaze_controller:waypoint_controller`. No part ever starts a run for one of the
start-goal pairs that are held out for evaluation.

- waypoints: episodes of 500 steps in which one goal follows the other, with noise (1000 of them are 500 000 steps).
- stitching: short episodes, each from a start to one goal at most a third of the maze's diameter away. The pairs that
  are held out are farther apart: no episode shows a whole way.
"""

from __future__ import annotations

from typing import Any

from qseq.environments.pointmaze import TASKS, maze_map
from qseq.environments.recipes import Kwargs, RecipePart
from qseq.environments.task_names import checked_tasks
from qseq.errors import RequestError

ENV_ID = "qseq.environments.pointmaze:qseq/pointmaze-v0"
POLICY = "scripted:qseq.environments.pointmaze_controller:waypoint_controller"
RECIPES = ("waypoints", "stitching")
# Steps the noisy controller takes for a cell, generously: an episode must not end before its goal is reached.
_STEPS_A_CELL = 60

_NOISE: Kwargs = {"noise_scale": 0.5, "noise_correlation": 0.9, "random_probability": 0.05, "random_steps": 10}


def pointmaze_recipe(name: str, task: str = "medium") -> tuple[RecipePart, ...]:
    """The parts of a recipe for one maze; their fractions add up to 1.

    Raises:
        RequestError: there is no such recipe or maze.
    """
    checked_tasks(task, TASKS, "PointMaze")
    if name == "waypoints":
        return (_part("waypoints", task, max_episode_steps=500),)
    if name == "stitching":
        farthest = maze_map(task).diameter // 3
        short: dict[str, Any] = {"stop_at_goal": True, "farthest": farthest}
        return (_part("stitching", task, max_episode_steps=_STEPS_A_CELL * farthest, **short),)
    raise RequestError(f"there is no PointMaze recipe '{name}': expected one of {', '.join(RECIPES)}")


def _part(name: str, task: str, **env_kwargs: Any) -> RecipePart:
    env = {"task": task, "pairs": "training", **env_kwargs}
    return RecipePart(name=name, fraction=1.0, env_kwargs=env, policy_kwargs=dict(_NOISE), env_id=ENV_ID, policy=POLICY)
