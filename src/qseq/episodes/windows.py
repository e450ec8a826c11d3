"""Training windows: random steps of a data set with the frames, actions and rewards around them."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from qseq.episodes.order import permute
from qseq.episodes.view import EpisodeView
from qseq.episodes.window_spec import WindowSpec
from qseq.errors import RequestError

_BATCHES_A_BLOCK = 16


@dataclass(frozen=True)
class WindowBatch:
    """B windows; see `WindowSpec` for U (frames), N (action steps) and M (horizons).

    Attributes:
        frames: name -> [B, U, *shape]; frames before the episode's start repeat its first.
        actions: [B, N, *action_shape]; after the end the last action repeats.
        rewards: float32 [B, N]; 0 after the end.
        step_mask: bool [B, N], True inside the episode.
        bootstrap_steps: int64 [B, M], min(m, T - t): steps really taken.
        bootstrap_terminated: bool [B, M]: the state reached is terminal, nothing may be bootstrapped from it.
        returns_to_go: float32 [B], discounted; completed by discount**(T - t) * min_return where the episode did not
            terminate.
        instruction_ids: int64 [B], indices into the view's `instructions`.
        episodes, steps: int64 [B], where the window was cut, for messages.
    """

    frames: dict[str, Tensor]
    actions: Tensor
    rewards: Tensor
    step_mask: Tensor
    bootstrap_steps: Tensor
    bootstrap_terminated: Tensor
    returns_to_go: Tensor
    instruction_ids: Tensor
    episodes: Tensor
    steps: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> WindowBatch:
        """The same batch on another device."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in fields(self)
            if f.name != "frames"
        }
        frames = {name: value.to(device, non_blocking=non_blocking) for name, value in self.frames.items()}
        return WindowBatch(frames=frames, **moved)

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class _Rows:
    """Where the parts of B windows lie; everything about them but the columns' contents."""

    store_ids: np.ndarray
    frame_rows: np.ndarray
    step_rows: np.ndarray
    step_mask: np.ndarray
    bootstrap_steps: np.ndarray
    bootstrap_terminated: np.ndarray
    returns_to_go: np.ndarray
    instruction_ids: np.ndarray
    episodes: np.ndarray
    steps: np.ndarray

    def slice(self, first: int, last: int) -> _Rows:
        return _Rows(*(getattr(self, f.name)[first:last] for f in fields(self)))


class Windows:
    """An endless, seeded stream of window batches; every step comes once an epoch.

    Which step comes at which position is a pure function of (seed, epoch, position), so a run resumes by counting and
    processes need not talk to each other. A batch may hold the end of one epoch and the start of the next.

    Args:
        view: the episodes.
        spec: the shape of a window.
        batch_size: B.
        seed: of the order.
        discount: of `returns_to_go`, in [0, 1].
        min_return: the least return possible; what is assumed to follow an episode that did not terminate.

    Raises:
        RequestError: a number is out of its range.
    """

    def __init__(
        self,
        view: EpisodeView,
        spec: WindowSpec,
        *,
        batch_size: int,
        seed: int,
        discount: float,
        min_return: float = 0.0,
    ) -> None:
        if batch_size < 1:
            raise RequestError(f"batch_size: found {batch_size}, expected at least 1")
        if seed < 0:
            raise RequestError(f"seed: found {seed}, expected at least 0")
        self.view = view
        self.spec = spec
        self.batch_size = batch_size
        self.seed = seed
        self._ends = np.cumsum(view.lengths)
        self._starts = self._ends - view.lengths
        self._returns_to_go = view.returns_to_go(discount, min_return)
        self._horizons = np.array(spec.bootstrap_steps, dtype=np.int64)
        self._forward = np.array([m for m, _ in spec.frame_positions], dtype=np.int64)
        self._backward = np.array([f for _, f in spec.frame_positions], dtype=np.int64)
        self._block: tuple[int, _Rows] | None = None

    @property
    def steps_per_epoch(self) -> int:
        return int(self._ends[-1])

    @property
    def batches_per_epoch(self) -> float:
        """Batches in an epoch; not a whole number where batches straddle epochs."""
        return self.steps_per_epoch / self.batch_size

    def position_to_step(self, position: int) -> tuple[int, int]:
        """(episode of the view, step in it) at a position of the endless stream."""
        episodes, steps = self._locate(np.array([position], dtype=np.int64))
        return int(episodes[0]), int(steps[0])

    def batch_at(self, index: int) -> WindowBatch:
        """The index-th batch of the endless stream.

        Raises:
            RequestError: the index is negative.
        """
        if index < 0:
            raise RequestError(f"batch index: found {index}, expected at least 0")
        # Index arithmetic is done for several batches at a time: numpy's cost per call would otherwise outweigh it.
        number, within = divmod(index, _BATCHES_A_BLOCK)
        block = self._block
        if block is None or block[0] != number:
            size = _BATCHES_A_BLOCK * self.batch_size
            episodes, steps = self._locate(np.arange(number * size, (number + 1) * size))
            block = self._block = (number, self._resolve(episodes, steps))
        first = within * self.batch_size
        return self._gather(block[1].slice(first, first + self.batch_size))

    def windows_at(self, episodes: np.ndarray, steps: np.ndarray) -> WindowBatch:
        """The windows at chosen places: int [B] episodes of the view and int [B] steps in them.

        Raises:
            RequestError: there is no such step.
        """
        episodes, steps = np.asarray(episodes, dtype=np.int64), np.asarray(steps, dtype=np.int64)
        if ((episodes < 0) | (episodes >= self.view.num_episodes)).any():
            raise RequestError(f"episodes: expected numbers from 0 to {self.view.num_episodes - 1}")
        if ((steps < 0) | (steps >= self.view.lengths[episodes])).any():
            raise RequestError("steps: expected numbers from 0 to the episode's length - 1")
        return self._gather(self._resolve(episodes, steps))

    def _locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        epochs, within = np.divmod(positions, self.steps_per_epoch)
        places = np.empty_like(within)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            places[chosen] = permute(within[chosen], self.steps_per_epoch, self.seed, int(epoch))
        episodes = np.searchsorted(self._ends, places, side="right")
        return episodes, places - self._starts[episodes]

    def _resolve(self, episodes: np.ndarray, steps: np.ndarray) -> _Rows:
        view = self.view
        t_B1, length_B1 = steps[:, None], view.lengths[episodes][:, None]
        frame_BU = np.maximum(np.minimum(t_B1 + self._forward, length_B1) - self._backward, 0)
        step_BN = t_B1 + np.arange(self.spec.num_action_steps)
        reached_BM = t_B1 + self._horizons
        return _Rows(
            store_ids=view.store_ids[episodes],
            frame_rows=view.first_frames[episodes][:, None] + frame_BU,
            step_rows=view.first_steps[episodes][:, None] + np.minimum(step_BN, length_B1 - 1),
            step_mask=step_BN < length_B1,
            bootstrap_steps=np.minimum(reached_BM, length_B1) - t_B1,
            bootstrap_terminated=(reached_BM >= length_B1) & view.terminated[episodes][:, None],
            returns_to_go=self._returns_to_go[self._starts[episodes] + steps],
            instruction_ids=view.instruction_ids[episodes],
            episodes=episodes,
            steps=steps,
        )

    def _gather(self, rows: _Rows) -> WindowBatch:
        view = self.view
        rewards = view.take("reward", rows.store_ids, rows.step_rows)
        rewards *= rows.step_mask
        return WindowBatch(
            frames={
                name: torch.from_numpy(view.take(name, rows.store_ids, rows.frame_rows)) for name in view.schema.fields
            },
            actions=torch.from_numpy(view.take("action", rows.store_ids, rows.step_rows)),
            rewards=torch.from_numpy(rewards),
            # The small parts are copied so that whoever changes a batch in place does not change the block.
            step_mask=torch.from_numpy(rows.step_mask.copy()),
            bootstrap_steps=torch.from_numpy(rows.bootstrap_steps.copy()),
            bootstrap_terminated=torch.from_numpy(rows.bootstrap_terminated.copy()),
            returns_to_go=torch.from_numpy(rows.returns_to_go.copy()),
            instruction_ids=torch.from_numpy(rows.instruction_ids.copy()),
            episodes=torch.from_numpy(rows.episodes.copy()),
            steps=torch.from_numpy(rows.steps.copy()),
        )
