"""Meta-World tasks with a sparse reward, a visible goal and fresh positions at each reset: `qseq/metaworld-v3`.

Made with `make_environment("qseq.environments.metaworld:qseq/metaworld-v3", {"task": "push-v3"})`.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from qseq.environments.disturbances import CorrelatedNoise
from qseq.environments.experts import MetaWorldExpert
from qseq.environments.metaworld_tasks import INSTRUCTIONS, TASKS
from qseq.environments.rendering import OffscreenRenderer
from qseq.environments.task_names import checked_tasks
from qseq.errors import QseqError, RequestError

ENV_ID = "qseq/metaworld-v3"
STATE_SIZE = 39
PROPRIOCEPTION_SIZE = 4
ACTION_SIZE = 4
STARTS = ("beginning", "part-way")
PRIVATE_STEPS = 300
PRIVATE_ATTEMPTS = 20

Array = npt.NDArray[Any]


class MetaWorld(gym.Env[Any, npt.NDArray[np.float32]]):
    """One Meta-World task, or several of which each episode draws one.

    The reward is 1 at the first success, where the episode terminates, and 0 before. Object and goal positions are
    drawn afresh from the task's continuous distribution at each reset and are a pure function of the reset's seed.
    The state [39] is float32: hand and first object, the same one step before, and the goal's position. `info` holds
    "success", "task" and "instruction".

    Args:
        task: a name such as "push-v3", or a list of names.
        image_size: when given, the observation is {"state", "proprioception", "image"}: uint8 pictures [size, size, 3],
            and what a robot knows of itself without a camera, the first 4 numbers of the state (position of the hand,
            opening of the gripper). Leave "state" out of `data.fields` to act on pictures alone.
        camera: the camera of pictures and rendered frames.
        render_size: side of the frames that `render()` returns, in pixels.
        start: "part-way" runs the scripted expert privately and hands the episode over in the middle of the task.
        start_range: where it is handed over, as a fraction (low, high) of the steps the expert needed.
        start_noise: standard deviation of the correlated noise on that private expert's actions.

    Raises:
        RequestError: a task, camera, start or size that does not exist, or metaworld is not installed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012 (Gymnasium's own type)

    def __init__(
        self,
        task: str | Sequence[str] = "push-v3",
        *,
        image_size: int | None = None,
        camera: str = "corner2",
        render_size: int = 240,
        start: str = "beginning",
        start_range: Sequence[float] = (0.3, 0.7),
        start_noise: float = 0.2,
        render_mode: str | None = None,
    ) -> None:
        self._tasks = checked_tasks(task, TASKS, "Meta-World")
        if start not in STARTS:
            raise RequestError(f"env kwarg start={start!r}: expected one of {', '.join(STARTS)}")
        low, high = _checked_range(start_range)
        self._start, self._start_range, self._start_noise = start, (low, high), float(start_noise)
        self._image_size, self._camera, self._render_size = image_size, camera, render_size
        self.render_mode = render_mode
        state_space = gym.spaces.Box(-np.inf, np.inf, (STATE_SIZE,), np.float32)
        if image_size is None:
            self.observation_space: gym.Space[Any] = state_space
        else:
            if not isinstance(image_size, int) or image_size < 8:
                raise RequestError(f"env kwarg image_size={image_size!r}: expected a whole number of at least 8 pixels")
            pictures = gym.spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
            own = gym.spaces.Box(-np.inf, np.inf, (PROPRIOCEPTION_SIZE,), np.float32)
            self.observation_space = gym.spaces.Dict({"state": state_space, "proprioception": own, "image": pictures})
        self.action_space = gym.spaces.Box(-1.0, 1.0, (ACTION_SIZE,), np.float32)
        self._simulators: dict[str, Any] = {}
        self._renderers: dict[tuple[str, int], OffscreenRenderer] = {}
        self._task = self._tasks[0]
        self._simulator = self._simulator_of(self._task)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        rng = self.np_random
        self._task = self._tasks[int(rng.integers(len(self._tasks)))]
        self._simulator = self._simulator_of(self._task)
        part_way = self._start == "part-way"
        state = self._start_part_way(rng) if part_way else self._lay_out(int(rng.integers(2**62)))
        return self._observation(state), self._info(success=False)

    def step(self, action: npt.NDArray[np.float32]) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        state, success = self._advance(np.asarray(action, dtype=np.float32))
        return self._observation(state), float(success), success, False, self._info(success)

    def render(self) -> Any:
        """The present state as uint8 [render_size, render_size, 3]; None unless `render_mode` is "rgb_array"."""
        if self.render_mode != "rgb_array":
            return None
        return self._frame(self._render_size)

    def close(self) -> None:
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
        self._simulators.clear()

    def _simulator_of(self, task: str) -> Any:
        if task not in self._simulators:
            simulator = self._simulators[task] = _make_simulator(task)
            if self._camera == "corner2":
                # Before the first reset, whose kinematics place the camera: else the first picture is the old view.
                _move_nearer(simulator.model)
        return self._simulators[task]

    def _lay_out(self, layout_seed: int) -> Array:
        """Draw positions from `layout_seed`, put the robot at its start and return the first state [39]."""
        import mujoco

        simulator = self._simulator
        simulator.np_random = np.random.default_rng(layout_seed)
        simulator.curr_path_length = 0
        # The first pass only moves bodies to the drawn positions: reset_model reads some positions before the
        # simulator has recomputed them, so that a single pass would show those of the episode before.
        simulator._freeze_rand_vec = False
        mujoco.mj_resetData(simulator.model, simulator.data)
        simulator.reset_model()
        simulator._freeze_rand_vec = True
        mujoco.mj_resetData(simulator.model, simulator.data)
        state = np.asarray(simulator.reset_model(), dtype=np.float64)
        simulator._prev_obs = state[:18].copy()
        state[18:36] = state[:18]
        # As `step` does, so that the goal reads the same at the first step and later.
        space = simulator.sawyer_observation_space
        return np.clip(state, space.low, space.high)

    def _advance(self, action: npt.NDArray[np.float32]) -> tuple[Array, bool]:
        state, _, _, _, info = self._simulator.step(action)
        return state, bool(info["success"])

    def _start_part_way(self, rng: np.random.Generator) -> Array:
        """Let the expert do the first part of the task, out of sight, and return the state it left."""
        expert = MetaWorldExpert(self._task)
        for _ in range(PRIVATE_ATTEMPTS):
            layout_seed = int(rng.integers(2**62))
            noise = CorrelatedNoise(rng, self._start_noise, 0.8, ACTION_SIZE)
            fraction = float(rng.uniform(*self._start_range))
            state = self._lay_out(layout_seed)
            actions: list[npt.NDArray[np.float32]] = []
            success = False
            while not success and len(actions) < PRIVATE_STEPS:
                actions.append(np.clip(expert(state) + noise(), -1.0, 1.0).astype(np.float32))
                state, success = self._advance(actions[-1])
            if success:
                # Replayed rather than restored: simulators keep state of their own beside MuJoCo's.
                state = self._lay_out(layout_seed)
                for action in actions[: max(1, round(fraction * len(actions)))]:
                    state, _ = self._advance(action)
                return state
        raise QseqError(
            f"the scripted expert of '{self._task}' failed {PRIVATE_ATTEMPTS} times with start_noise="
            f"{self._start_noise}: lower start_noise, or use start='beginning'"
        )

    def _observation(self, state: Array) -> Any:
        state = state.astype(np.float32)
        if self._image_size is None:
            return state
        own = state[:PROPRIOCEPTION_SIZE].copy()
        return {"state": state, "proprioception": own, "image": self._frame(self._image_size)}

    def _frame(self, size: int) -> npt.NDArray[np.uint8]:
        key = (self._task, size)
        if key not in self._renderers:
            # The corner cameras are mounted upside down.
            turned = self._camera.startswith("corner")
            self._renderers[key] = OffscreenRenderer(self._simulator.model, size, size, self._camera, turned=turned)
        return self._renderers[key].frame(self._simulator.data)

    def _info(self, success: bool) -> dict[str, Any]:
        return {"success": success, "task": self._task, "instruction": INSTRUCTIONS[self._task]}


def _make_simulator(task: str) -> Any:
    try:
        from metaworld.env_dict import ALL_V3_ENVIRONMENTS
    except ImportError as error:
        raise RequestError(f'metaworld cannot be imported ({error}): pip install "qseq[metaworld]"') from error
    original: Any = ALL_V3_ENVIRONMENTS[task]
    faster = {"_initialize_simulation": _copy_of_compiled_model, "touching_object": _touching_object}
    simulator = type(original.__name__, (original,), faster)()
    simulator._partially_observable = False
    # Cached while the goal was hidden: its bounds would clip every goal to zero.
    del simulator.sawyer_observation_space
    simulator.seeded_rand_vec = True
    simulator._set_task_called = True
    # The time limit is Gymnasium's; the simulator's own would raise.
    simulator.max_path_length = sys.maxsize
    return simulator


_compiled: dict[str, Any] = {}


def _copy_of_compiled_model(simulator: Any) -> tuple[Any, Any]:
    """Compile each model file once a process: it takes as long as a whole episode, and evaluation wants many copies."""
    import mujoco

    if simulator.fullpath not in _compiled:
        _compiled[simulator.fullpath] = mujoco.MjModel.from_xml_path(simulator.fullpath)
    model = copy.copy(_compiled[simulator.fullpath])
    return model, mujoco.MjData(model)


def _touching_object(simulator: Any, geom: int) -> bool:
    """Whether both finger pads press on `geom`: as the original, whose loops take a third of a step's time."""
    contact, forces = simulator.data.contact, simulator.data.efc_force
    pairs = contact.geom
    with_object = (pairs == geom).any(axis=1)
    if not with_object.any():
        return False
    for pad in ("leftpad_geom", "rightpad_geom"):
        pressed = with_object & (pairs == simulator.data.geom(pad).id).any(axis=1)
        if not forces[contact.efc_address[pressed]].sum() > 0:
            return False
    return True


def _move_nearer(model: Any) -> None:
    """Corner2 looks at the part of the table where things happen: in the model's view a puck is a dot at 64 pixels."""
    camera = model.cam("corner2")
    camera.pos[:] = (0.75, 0.075, 0.7)
    camera.fovy[:] = 42.0


def _checked_range(start_range: Sequence[float]) -> tuple[float, float]:
    values = tuple(float(value) for value in start_range)
    if len(values) != 2 or not 0.0 < values[0] <= values[1] < 1.0:
        raise RequestError(f"env kwarg start_range={list(start_range)}: expected [low, high] with 0 < low <= high < 1")
    return values[0], values[1]


if ENV_ID not in gym.registry:
    gym.register(ENV_ID, entry_point="qseq.environments.metaworld:MetaWorld", max_episode_steps=150)
