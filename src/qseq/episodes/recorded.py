"""One episode of a view as filters and relabelling functions see it: its facts at once, its arrays when asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qseq.episodes.view import EpisodeView


@dataclass(frozen=True)
class RecordedEpisode:
    """Episode `index` of a view. Reading an array touches the rows of this field and episode only."""

    view: EpisodeView
    index: int

    @property
    def num_steps(self) -> int:
        """T."""
        return int(self.view.lengths[self.index])

    @property
    def success(self) -> bool | None:
        """None when nobody said."""
        said = int(self.view.success[self.index])
        return None if said < 0 else bool(said)

    @property
    def terminated(self) -> bool:
        return bool(self.view.terminated[self.index])

    @property
    def truncated(self) -> bool:
        return bool(self.view.truncated[self.index])

    @property
    def instruction(self) -> str:
        return str(self.view.instructions[self.view.instruction_ids[self.index]])

    @property
    def metadata(self) -> dict[str, Any]:
        store, episode = self.view.place(self.index)
        return store.metadata[episode]

    @property
    def task(self) -> str | None:
        """Metadata "task", None where there is none."""
        task = self.metadata.get("task")
        return None if task is None else str(task)

    @property
    def observations(self) -> Mapping[str, np.ndarray]:
        """Field -> [T+1, *shape], read when it is looked up."""
        return _Observations(self)

    @property
    def actions(self) -> np.ndarray:
        """[T, *action_shape]."""
        return self._read("action", 0)

    @property
    def rewards(self) -> np.ndarray:
        """float32 [T], as the view has them."""
        return self._read("reward", 0)

    @property
    def total_return(self) -> float:
        """The sum of the rewards."""
        return float(self.rewards.sum(dtype=np.float64))

    def _read(self, name: str, more: int) -> np.ndarray:
        view, index = self.view, self.index
        first = view.first_frames[index] if more else view.first_steps[index]
        rows = np.arange(first, first + self.num_steps + more)
        values: np.ndarray = view.take(name, view.store_ids[index : index + 1], rows[None])[0]
        return values


@dataclass(frozen=True)
class _Observations(Mapping[str, np.ndarray]):
    episode: RecordedEpisode

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.episode.view.fields:
            raise KeyError(f"{name!r}: the data have the fields {list(self.episode.view.fields)}")
        return self.episode._read(name, 1)

    def __iter__(self) -> Iterator[str]:
        return iter(self.episode.view.fields)

    def __len__(self) -> int:
        return len(self.episode.view.fields)
