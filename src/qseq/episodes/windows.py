"""Training windows: random steps of a data set with the frames, actions and rewards around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from dataclasses import fields as dataclass_fields

import numpy as np
import torch
from torch import Tensor

from qseq.episodes.past_actions import PAST_ACTIONS, PastActions
from qseq.episodes.step_order import MixedSteps, ShuffledSteps, StepOrder, StepsInOrder
from qseq.episodes.view import EpisodeView
from qseq.episodes.window_spec import WindowSpec
from qseq.errors import RequestError

_WINDOWS_A_BLOCK = 16384


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
        achieved: bool [B, M]: the state reached is the last of a successful episode.
        returns_to_go: float32 [B], discounted; completed by discount**(T - t) * min_return where the episode did not
            terminate.
        instruction_ids: int64 [B], indices into the view's `instructions`.
        episodes, steps: int64 [B], where the window was cut, for messages.
        recordings: int64 [B], number of the recorded episode: the same wherever a view shows an episode again.
    """

    frames: dict[str, Tensor]
    actions: Tensor
    rewards: Tensor
    step_mask: Tensor
    bootstrap_steps: Tensor
    bootstrap_terminated: Tensor
    achieved: Tensor
    returns_to_go: Tensor
    instruction_ids: Tensor
    episodes: Tensor
    steps: Tensor
    recordings: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> WindowBatch:
        """The same batch on another device."""
        moved = {
            f.name: getattr(self, f.name).to(device, non_blocking=non_blocking)
            for f in dataclass_fields(self)
            if f.name != "frames"
        }
        frames = {name: value.to(device, non_blocking=non_blocking) for name, value in self.frames.items()}
        return replace(self, frames=frames, **moved)

    def __len__(self) -> int:
        return len(self.steps)


@dataclass(frozen=True)
class _Places:
    """Where windows begin: one entry a window of what else is worked out from."""

    episodes: np.ndarray
    steps: np.ndarray
    left: np.ndarray  # steps to the episode's end, 1 at its last step; N + 1 where there are more than N
    store_ids: np.ndarray
    step_rows: np.ndarray
    first_frames: np.ndarray
    terminated: np.ndarray
    successful: np.ndarray
    returns_to_go: np.ndarray
    instruction_ids: np.ndarray
    recordings: np.ndarray

    def slice(self, first: int, last: int) -> _Places:
        return _Places(*[part[first:last] for part in vars(self).values()])


class Windows:
    """An endless, seeded stream of window batches; every step comes once an epoch, unless the view has weights.

    Which step comes at which position is a pure function of (seed, epoch, position), so a run resumes by counting and
    processes need not talk to each other. A batch may hold the end of one epoch and the start of the next.

    Args:
        view: the episodes.
        spec: the shape of a window.
        batch_size: B.
        seed: of the order.
        discount: of `returns_to_go`, in [0, 1].
        min_return: the least return possible; what is assumed to follow an episode that did not terminate.
        shuffle: False takes the steps in the order of the view, in every epoch.
        fields: observation fields to read, all if not given: what nobody asks for, cameras above all, is not touched.
        past_actions: what was done before each frame, given as one more field, "past_actions"; none if not given.

    Attributes:
        fields: name -> what the schema says of the field, for those that are read.

    Raises:
        RequestError: a number is out of its range, or there is no such field.
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
        shuffle: bool = True,
        fields: Sequence[str] | None = None,
        past_actions: PastActions | None = None,
    ) -> None:
        unknown = sorted(set(fields or ()) - set(view.fields))
        if unknown:
            raise RequestError(f"fields: found '{unknown[0]}', expected some of {sorted(view.fields)}")
        if batch_size < 1:
            raise RequestError(f"batch_size: found {batch_size}, expected at least 1")
        if seed < 0:
            raise RequestError(f"seed: found {seed}, expected at least 0")
        self.view = view
        if past_actions is not None and PAST_ACTIONS in view.fields:
            raise RequestError(f"past_actions: the data have a field '{PAST_ACTIONS}' of their own")
        self.past_actions = past_actions
        self.fields = {name: view.fields[name] for name in (view.fields if fields is None else fields)}
        self.spec = spec
        self.batch_size = batch_size
        self.seed = seed
        self.shuffle = shuffle
        self._batches_a_block = max(1, _WINDOWS_A_BLOCK // batch_size)
        self._steps_per_epoch = view.num_steps
        self._starts = np.cumsum(view.lengths) - view.lengths
        # Four bytes a step, as the returns take: a search among the ends takes as long as reading the window.
        self._episode_of_step = np.repeat(np.arange(view.num_episodes, dtype=np.int32), view.lengths)
        self._returns_to_go = view.returns_to_go(discount, min_return)
        self._successful = view.success == 1
        self._backward = np.array([f for _, f in spec.frame_positions], dtype=np.int64)
        # How the end of the episode cuts a window, for each number of steps left: rows 0 .. N + 1. One lookup of a row
        # costs less than the comparisons it stands for.
        ahead, horizons = np.arange(spec.num_action_steps), np.array(spec.bootstrap_steps, dtype=np.int64)
        left_L1 = np.arange(spec.num_action_steps + 2)[:, None]
        self._frames_ahead_LU = np.minimum([m for m, _ in spec.frame_positions], left_L1)
        self._steps_ahead_LN = np.maximum(np.minimum(ahead, left_L1 - 1), 0)
        self._step_mask_LN = ahead < left_L1
        self._bootstrap_steps_LM = np.minimum(horizons, left_L1)
        self._at_end_LM = horizons >= left_L1
        self._order = self._step_order()
        self._block: tuple[int, _Places] | None = None

    def _step_order(self) -> StepOrder:
        view = self.view
        if not self.shuffle:
            return StepsInOrder(view.num_steps)
        if view.weights is not None:
            return MixedSteps(view.lengths, view.store_ids, view.weights, self.seed)
        return ShuffledSteps(view.num_steps, self.seed)

    @property
    def steps_per_epoch(self) -> int:
        return self._steps_per_epoch

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
        number, within = divmod(index, self._batches_a_block)
        block = self._block
        if block is None or block[0] != number:
            size = self._batches_a_block * self.batch_size
            episodes, steps = self._locate(np.arange(number * size, (number + 1) * size))
            block = self._block = (number, self._places(episodes, steps))
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
        return self._gather(self._places(episodes, steps))

    def _locate(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Episodes and steps at consecutive positions, int64 [positions] each."""
        places = self._order(positions)
        episodes = self._episode_of_step.take(places).astype(np.int64)
        return episodes, places - self._starts[episodes]

    def _places(self, episodes: np.ndarray, steps: np.ndarray) -> _Places:
        view = self.view
        return _Places(
            episodes=episodes,
            steps=steps,
            left=np.minimum(view.lengths.take(episodes) - steps, self.spec.num_action_steps + 1),
            store_ids=view.store_ids.take(episodes),
            step_rows=view.first_steps.take(episodes) + steps,
            first_frames=view.first_frames.take(episodes),
            terminated=view.terminated.take(episodes),
            successful=self._successful.take(episodes),
            returns_to_go=self._returns_to_go.take(self._starts.take(episodes) + steps),
            instruction_ids=view.instruction_ids.take(episodes),
            recordings=view.recordings.take(episodes),
        )

    def _gather(self, places: _Places) -> WindowBatch:
        view, left = self.view, places.left
        first_frame_B1 = places.first_frames[:, None]
        frame_rows_BU = self._frames_ahead_LU.take(left, axis=0)
        frame_rows_BU += first_frame_B1 + places.steps[:, None]
        if self.spec.history > 1:
            frame_rows_BU -= self._backward
            np.maximum(frame_rows_BU, first_frame_B1, out=frame_rows_BU)
        step_rows_BN = self._steps_ahead_LN.take(left, axis=0)
        step_rows_BN += places.step_rows[:, None]
        step_mask_BN = self._step_mask_LN.take(left, axis=0)
        at_end_BM = self._at_end_LM.take(left, axis=0)
        rewards_BN = view.take("reward", places.store_ids, step_rows_BN)
        rewards_BN *= step_mask_BN
        frames = {name: torch.from_numpy(view.take(name, places.store_ids, frame_rows_BU)) for name in self.fields}
        if self.past_actions is not None:
            frames[PAST_ACTIONS] = torch.from_numpy(self._done_before(places, frame_rows_BU - first_frame_B1))
        return WindowBatch(
            frames=frames,
            actions=torch.from_numpy(view.take("action", places.store_ids, step_rows_BN)),
            rewards=torch.from_numpy(rewards_BN),
            step_mask=torch.from_numpy(step_mask_BN),
            bootstrap_steps=torch.from_numpy(self._bootstrap_steps_LM.take(left, axis=0)),
            bootstrap_terminated=torch.from_numpy(at_end_BM & places.terminated[:, None]),
            achieved=torch.from_numpy(at_end_BM & places.successful[:, None]),
            # Copied, so that whoever changes a batch in place does not change the block it came from.
            returns_to_go=torch.from_numpy(places.returns_to_go.copy()),
            instruction_ids=torch.from_numpy(places.instruction_ids.copy()),
            episodes=torch.from_numpy(places.episodes.copy()),
            steps=torch.from_numpy(places.steps.copy()),
            recordings=torch.from_numpy(places.recordings.copy()),
        )

    def _done_before(self, places: _Places, frames_BU: np.ndarray) -> np.ndarray:
        """What was done before each frame, counted from the start of its episode: `[B, U, m, W]`."""
        assert self.past_actions is not None
        before_BUm = frames_BU[..., None] - np.arange(self.past_actions.steps, 0, -1)
        rows_BUm = (places.step_rows - places.steps)[:, None, None] + np.maximum(before_BUm, 0)
        actions = self.view.take("action", places.store_ids, rows_BUm.reshape(len(rows_BUm), -1))
        return self.past_actions.vectors(actions.reshape(*rows_BUm.shape, *actions.shape[2:]), before_BUm >= 0)
