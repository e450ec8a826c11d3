"""BabyAI's missions seen as pictures, with a sparse reward: `qseq/babyai-v0`.

Made with `make_environment("qseq.environments.babyai:qseq/babyai-v0", {"task": "GoToLocal"})`. On one core it takes
about 4000 steps a second.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from qseq.environments.task_names import checked_tasks
from qseq.errors import RequestError

ENV_ID = "qseq/babyai-v0"
PREFIX = "BabyAI-"
TILE_SIZE = 8
DEFAULT_STEPS = 64
DIRECTIONS = 4

Observation = dict[str, npt.NDArray[Any]]


Pose = tuple[int, int, int]
"""Column, row, and where the agent looks: 0 east, 1 south, 2 west, 3 north. Rows are counted downwards."""


class BabyAI(gym.Env[Any, Any]):
    """One BabyAI task, or several of which each episode draws one; every episode has a room and a mission of its own.

    The observation is {"image": uint8 [3, 56, 56]}: the 7 x 7 cells before the agent (who stands in the middle of the
    lowest row) at 8 x 8 pixels each. Actions: 0 turn left, 1 turn right, 2 forward, 3 pick up, 4 drop, 5 toggle,
    6 nothing. The reward is 1 where the mission is accomplished, else 0; the episode terminates there, or where the
    mission has failed for good (only the tasks whose name ends in "Debug" can). Room, objects and mission are a pure
    function of the reset's seed. `info` holds "success", "task" and "instruction", the mission's text.

    Episodes last at most 64 steps, as BabyAI allows for one room; tasks of several rooms need a larger
    `max_episode_steps`.

    Args:
        task: BabyAI's name without prefix and version, such as "GoToLocal", "PickupLoc" or "PutNextLocal", or a list
            of names.
        render_size: side of a cell in the frames that `render()` returns (the whole world from above), in pixels.
        odometry: also show "odometry", float32 [6], how far the agent has come since the start, as a robot's wheels
            know it: cells ahead and to the right, as seen from where it started, then 1 for where it looks (ahead, to
            the right, back, to the left). Missions such as "the ball on your left" mean as seen from the start.

    Raises:
        RequestError: a task or size that does not exist, or minigrid is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 8}  # noqa: RUF012 (Gymnasium's own type)

    def __init__(
        self,
        task: str | Sequence[str] = "GoToLocal",
        *,
        render_size: int = 32,
        odometry: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if isinstance(render_size, bool) or not isinstance(render_size, int) or render_size < 4:
            raise RequestError(f"env kwarg render_size={render_size!r}: expected a whole number of at least 4 pixels")
        ids = _registered_ids()
        self._tasks = checked_tasks(task, ids, "BabyAI")
        self._render_size = render_size
        self.render_mode = render_mode
        self._levels = {name: _make_level(ids[name]) for name in self._tasks}
        self._task = self._tasks[0]
        self._start: Pose = (0, 0, 0)
        first = self.level
        sizes = {level.agent_view_size for level in self._levels.values()}
        if len(sizes) > 1:
            raise RequestError(f"env kwarg task={list(self._tasks)}: these see differently many cells: {sorted(sizes)}")
        side = first.agent_view_size * TILE_SIZE
        self._odometry = odometry
        fields: dict[str, gym.Space[Any]] = {"image": gym.spaces.Box(0, 255, (3, side, side), np.uint8)}
        if odometry:
            fields["odometry"] = gym.spaces.Box(-np.inf, np.inf, (2 + DIRECTIONS,), np.float32)
        self.observation_space = gym.spaces.Dict(fields)
        self.action_space = gym.spaces.Discrete(int(first.action_space.n))

    @property
    def level(self) -> Any:
        """The present task's `minigrid` environment: what a scripted policy may look at, never a learnt one."""
        return self._levels[self._task]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self._task = self._tasks[int(rng.integers(len(self._tasks)))]
        self.level.reset(seed=int(rng.integers(2**31)))
        self._start = self._pose()
        return self._observation(), self._info(success=False)

    def step(self, action: int) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        _, reward, terminated, _, _ = self.level.step(int(action))
        # The level's own reward shrinks with time; whether there is one is all that counts here.
        success = bool(terminated) and reward > 0
        return self._observation(), float(success), bool(terminated), False, self._info(success)

    def render(self) -> Any:
        """The world from above, uint8 [height, width, 3]; None unless `render_mode` is "rgb_array"."""
        if self.render_mode != "rgb_array":
            return None
        return self.level.get_full_render(True, self._render_size)

    def close(self) -> None:
        for level in self._levels.values():
            level.close()

    def _observation(self) -> Observation:
        picture = self.level.get_pov_render(TILE_SIZE)
        observation: Observation = {"image": np.ascontiguousarray(picture.transpose(2, 0, 1))}
        if self._odometry:
            observation["odometry"] = odometry_between(self._start, self._pose())
        return observation

    def _pose(self) -> Pose:
        column, row = self.level.agent_pos
        return int(column), int(row), int(self.level.agent_dir)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "task": self._task, "instruction": str(self.level.mission)}


def odometry_between(start: Pose, now: Pose) -> npt.NDArray[np.float32]:
    """How far from `start` the pose `now` is, float32 [6], see `BabyAI`."""
    column, row, direction = (after - before for before, after in zip(start, now, strict=True))
    moved = np.array([column, row])
    ahead = np.array([(1, 0), (0, 1), (-1, 0), (0, -1)])
    looks = np.eye(DIRECTIONS)[direction % DIRECTIONS]
    seen_from_start = [moved @ ahead[start[2]], moved @ ahead[(start[2] + 1) % DIRECTIONS]]
    return np.concatenate((seen_from_start, looks)).astype(np.float32)


def _registered_ids() -> dict[str, str]:
    """{task: minigrid's id} of all BabyAI tasks."""
    try:
        import minigrid  # noqa: F401 (registers the ids)
        from minigrid.envs.babyai.core import roomgrid_level
    except ImportError as error:
        raise RequestError(f'minigrid cannot be imported ({error}): pip install "qseq[babyai]"') from error
    # Set on that module alone, so that nothing else printed in this process can get lost.
    roomgrid_level.__dict__["print"] = _print_all_but_rejections
    names = sorted(name for name in gym.registry if name.startswith(PREFIX))
    return {name.removeprefix(PREFIX).rpartition("-v")[0]: name for name in names}


def _print_all_but_rejections(*values: object, **options: Any) -> None:
    """Print, but not that a drawn mission was impossible and is drawn again."""
    if not (values and str(values[0]).startswith("Sampling rejected")):
        print(*values, **options)


def _make_level(level_id: str) -> Any:
    level: Any = gym.make(level_id, disable_env_checker=True).unwrapped
    # The time limit is Gymnasium's, and the symbolic observation, which takes a third of a step's time, goes unused.
    level.fixed_max_steps, level.max_steps = True, sys.maxsize
    level.gen_obs = dict
    return level


if ENV_ID not in gym.registry:
    gym.register(ENV_ID, entry_point="qseq.environments.babyai:BabyAI", max_episode_steps=DEFAULT_STEPS)
