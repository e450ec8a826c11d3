"""`ReplayMemoryDataset`: windows of consecutive steps from a replay folder, read where they lie on the disk.

Legend: n steps of a window, F frames of history.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from qseq.episodes.store import EpisodeStore
from qseq.episodes.view import EpisodeView
from qseq.errors import RequestError

REPLAY_FOLDER = "./replay_memories_data"
"""Where an `Agent` writes and a `ReplayMemoryDataset` reads if not told otherwise."""


class ReplayWindow(NamedTuple):
    """n consecutive steps; at the end of an episode fewer are real, and `mask` says which."""

    instruction: str
    states: dict[str, Tensor]
    """Field -> what was seen before each action, [n, *shape]; the last state repeats after the end."""
    actions: Tensor
    """[n, *action_shape]; the last one repeats after the end."""
    rewards: Tensor
    """float32 [n]; 0 after the end."""
    mask: Tensor
    """bool [n], True for steps that were taken."""
    next_state: dict[str, Tensor]
    """Field -> what was seen after the last real step, [*shape]: the true last state if the episode ends here."""
    terminated: Tensor
    """bool []: nothing follows the next state. A time limit is not such an end."""


class ReplayMemoryDataset:
    """Every step that was written begins one window; a `torch.utils.data.DataLoader` can read it, a `QLearner` does.

    Only whole episodes count. Opening reads the list of episodes and maps the columns; a window reads its own rows.

    Args:
        folder: written by an `Agent`, `collect` or a `StoreWriter`.
        num_timesteps: n.

    Raises:
        DataError: no store, a damaged one, or one without an episode.
        RequestError: `num_timesteps` is not at least 1.
    """

    def __init__(self, folder: str | Path = REPLAY_FOLDER, num_timesteps: int = 1) -> None:
        if num_timesteps < 1:
            raise RequestError(f"num_timesteps: found {num_timesteps}, expected at least 1")
        self.folder = Path(folder)
        self.num_timesteps = num_timesteps
        self.view = EpisodeView(EpisodeStore.open(self.folder))
        self._ends = np.cumsum(self.view.lengths)

    @property
    def num_episodes(self) -> int:
        return self.view.num_episodes

    @property
    def episode_length(self) -> np.ndarray:
        """int64 [episodes]: steps of each."""
        return self.view.lengths

    def __len__(self) -> int:
        return self.view.num_steps

    def __getitem__(self, index: int) -> ReplayWindow:
        """The window at step `index`, counted through all episodes. Raises IndexError if there is none."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"step {index} of {len(self)} in {self.folder}")
        index %= len(self)
        view, steps = self.view, self.num_timesteps
        episode = int(np.searchsorted(self._ends, index, side="right"))
        step = index - int(self._ends[episode] - view.lengths[episode])
        left = int(view.lengths[episode]) - step
        real = min(steps, left)
        store = view.store_ids[episode : episode + 1]
        first_frame, first_step = int(view.first_frames[episode]) + step, int(view.first_steps[episode]) + step
        ahead = np.arange(steps)
        frames = np.append(np.minimum(ahead, left), real) + first_frame
        rows = np.minimum(ahead, left - 1) + first_step

        def read(name: str, places: np.ndarray) -> Tensor:
            return torch.from_numpy(view.take(name, store, places[None])[0])

        observed = {name: read(name, frames) for name in view.fields}
        mask = torch.from_numpy(ahead < left)
        return ReplayWindow(
            instruction=view.instructions[view.instruction_ids[episode]],
            states={name: values[:-1] for name, values in observed.items()},
            actions=read("action", rows),
            rewards=read("reward", rows) * mask,
            mask=mask,
            next_state={name: values[-1] for name, values in observed.items()},
            terminated=torch.tensor(bool(view.terminated[episode]) and left <= steps),
        )
