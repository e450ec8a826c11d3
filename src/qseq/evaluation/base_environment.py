"""The environments of earlier Q-Transformer code: `init()` and a call. New ones are better written for Gymnasium."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class BaseEnvironment(nn.Module):
    """An environment to derive from: give it `init` and `forward`, and an `Agent` acts in it.

    Args:
        state_shape: of one state: a vector [N], an image [channels, height, width], or a video [channels, frames,
            height, width], the newest frame last.
        text_embed_shape: of an instruction's embedding. Kept for those who read it; replay folders hold the text.

    Images are uint8, or floats in [0, 1].
    """

    def __init__(self, *, state_shape: tuple[int, ...], text_embed_shape: int | tuple[int, ...]) -> None:
        super().__init__()
        self.state_shape = tuple(state_shape)
        self.text_embed_shape = text_embed_shape if isinstance(text_embed_shape, tuple) else (text_embed_shape,)
        self.register_buffer("_place", torch.zeros(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """Where it was moved to."""
        return self.get_buffer("_place").device

    def seed(self, seed: int) -> None:
        """Called before each `init`; an environment that is random by itself leaves it as it is."""

    def init(self) -> tuple[str, Tensor]:
        """Begin an episode: instruction and first state."""
        raise NotImplementedError

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One step.

        Args:
            actions: bins of the action's dimensions, int64 [1, A].

        Returns:
            reward [], next state [*state_shape], done bool []. At the episode's end the next state is the last one
            of this episode. Done means terminated: an `Agent` counts its time limit itself.
        """
        raise NotImplementedError


class MockEnvironment(BaseEnvironment):
    """Random states to try things out with: no state tells anything, no action matters.

    Pixels are multiples of 1/255 in [0, 1]; a video begins with its first frame repeated and then shifts by one frame
    a step. An episode ends with probability `end_probability` a step, and then is rewarded by 0 or 1: returns lie
    in [0, 1].

    Args:
        num_actions, action_bins: if given, actions that are not [1, num_actions] bins below `action_bins` are refused.
        instructions: one is drawn for each episode.
    """

    def __init__(
        self,
        *,
        state_shape: tuple[int, ...],
        text_embed_shape: int | tuple[int, ...],
        num_actions: int | None = None,
        action_bins: int | None = None,
        instructions: tuple[str, ...] = ("bring me the apple", "pass the butter"),
        end_probability: float = 0.05,
        seed: int = 0,
    ) -> None:
        super().__init__(state_shape=state_shape, text_embed_shape=text_embed_shape)
        self.num_actions = num_actions
        self.action_bins = action_bins
        self.instructions = instructions
        self.end_probability = end_probability
        self._generator = torch.Generator().manual_seed(seed)
        self._state = torch.zeros(self.state_shape)

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    def init(self) -> tuple[str, Tensor]:
        if self._is_video:
            frame = self._random((self.state_shape[0], *self.state_shape[2:]))
            self._state = frame[:, None].expand(self.state_shape).clone()
        else:
            self._state = self._random(self.state_shape)
        choice = int(torch.randint(len(self.instructions), (), generator=self._generator))
        return self.instructions[choice], self._state.to(self.device)

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raises ValueError for actions that are not bins (where their number is known)."""
        self._check(actions)
        if self._is_video:
            frame = self._random((self.state_shape[0], *self.state_shape[2:]))
            self._state = torch.cat((self._state[:, 1:], frame[:, None]), dim=1)
        else:
            self._state = self._random(self.state_shape)
        done = torch.rand((), generator=self._generator) < self.end_probability
        reward = done * torch.randint(2, (), generator=self._generator)
        return reward.float().to(self.device), self._state.to(self.device), done.to(self.device)

    @property
    def _is_video(self) -> bool:
        return len(self.state_shape) == 4

    def _random(self, shape: tuple[int, ...]) -> Tensor:
        if len(shape) < 3:
            return torch.randn(shape, generator=self._generator)
        return torch.randint(256, shape, generator=self._generator).float() / 255

    def _check(self, actions: Tensor) -> None:
        if self.num_actions is not None and tuple(actions.shape) != (1, self.num_actions):
            raise ValueError(f"actions have shape {tuple(actions.shape)}, expected (1, {self.num_actions})")
        if actions.is_floating_point() or (actions < 0).any():
            raise ValueError(f"actions are {actions.tolist()}, expected bins: whole numbers from 0 on")
        if self.action_bins is not None and (actions >= self.action_bins).any():
            raise ValueError(f"actions are {actions.tolist()}, expected bins below {self.action_bins}")
