"""A `BaseEnvironment` as a Gymnasium environment, so that everything that collects can step it.

Legend: C channels, F frames, H x W pixels, A action dimensions, K bins.
"""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt
import torch
from gymnasium.envs.registration import EnvSpec
from torch import Tensor

from qseq.errors import QseqError, RequestError
from qseq.evaluation.base_environment import BaseEnvironment

Array = npt.NDArray[Any]


class BaseEnvironmentAdapter(gym.Env[Any, Any]):
    """Shows one frame a step and takes bins as actions.

    Of a video [C, F, H, W] only the newest frame is shown (and so stored): the frames before it were shown before, and
    a policy that looks back remembers them, as training finds them in the store. Where the environment's own stacks
    are not made of its last F frames, that is said once, in a warning: the model then sees the last F newest frames.
    Images are shown as uint8: floats in [0, 1] are rounded to 1/255.

    Args:
        base: the environment.
        field: name of the observation. frame_shape: of what the model reads. history: F of the model.
        num_actions, action_bins: A and K.

    Raises:
        RequestError: the states do not fit the model.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own annotation)

    def __init__(
        self,
        base: BaseEnvironment,
        *,
        field: str,
        frame_shape: tuple[int, ...],
        history: int,
        num_actions: int,
        action_bins: int,
    ) -> None:
        self.base = base
        self._name = type(base).__name__
        self.spec = EnvSpec(self._name)  # by which messages and stores call it
        self._is_video = len(base.state_shape) == 4
        self._check_shapes(frame_shape, history)
        self._is_image = len(frame_shape) == 3
        pixels = gym.spaces.Box(0, 255, frame_shape, np.uint8)
        numbers = gym.spaces.Box(-np.inf, np.inf, frame_shape, np.float32)
        self._field = field
        self.observation_space = gym.spaces.Dict({field: pixels if self._is_image else numbers})
        self.action_space = gym.spaces.MultiDiscrete([action_bins] * num_actions)
        self._state: Tensor | None = None
        self._warned: set[str] = set()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self.base.seed(seed)
        with torch.no_grad():
            instruction, state = self.base.init()
        state = self._checked(state)
        if self._is_video and not torch.equal(state, state[:, -1:].expand_as(state)):
            self._warn("begins an episode with frames that differ: the model sees repeats of the newest one, not")
        self._state = state
        return {self._field: self._shown(state)}, {"instruction": instruction}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        actions = torch.as_tensor(np.asarray(action), dtype=torch.long, device=self.base.device)[None]
        with torch.no_grad():
            reward, state, done = self.base(actions)
        state = self._checked(state)
        assert self._state is not None
        if self._is_video and not torch.equal(state[:, :-1], self._state[:, 1:]):
            self._warn(
                "does not shift its frames by one a step: the model sees the newest frames of the last steps, not"
            )
        self._state = state
        return {self._field: self._shown(state)}, float(reward), bool(done), False, {}

    def _check_shapes(self, frame_shape: tuple[int, ...], history: int) -> None:
        shape = self.base.state_shape
        frame, frames = ((shape[0], *shape[2:]), shape[1]) if self._is_video else (shape, history)
        if frame != tuple(frame_shape) or frames != history:
            raise RequestError(
                f"{self._name}: states have shape {list(shape)}, which does not fit the model: it reads {history} "
                f"frame{'s' * (history > 1)} of shape {list(frame_shape)}"
            )

    def _checked(self, state: Tensor) -> Tensor:
        if tuple(state.shape) != self.base.state_shape:
            raise QseqError(
                f"{self._name}: found a state of shape {list(state.shape)}, expected {list(self.base.state_shape)}"
            )
        return state.detach().cpu().clone()  # an environment may go on writing into its own tensor

    def _shown(self, state: Tensor) -> Array:
        frame = state[:, -1] if self._is_video else state
        if not self._is_image:
            return frame.float().numpy()
        if frame.dtype == torch.uint8:
            return frame.numpy()
        if not (frame.is_floating_point() and bool(((frame >= 0) & (frame <= 1)).all())):
            raise QseqError(
                f"{self._name}: found {frame.dtype} pixels from {float(frame.min()):.4g} to {float(frame.max()):.4g}, "
                "expected uint8, or floats in [0, 1]: frames are stored as uint8"
            )
        scaled: Array = (frame * 255).round().to(torch.uint8).numpy()
        return scaled

    def _warn(self, what: str) -> None:
        if what not in self._warned:
            self._warned.add(what)
            warnings.warn(
                f"{self._name} {what} its own stack; the newest frame of each stack is what is stored", stacklevel=3
            )
