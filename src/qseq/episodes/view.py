"""Several stores as one data set, all of their episodes or some."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from qseq.episodes.episode import Episode
from qseq.episodes.image_column import ImageColumn
from qseq.episodes.labels import Labels, relabelled_rewards
from qseq.episodes.recorded import RecordedEpisode
from qseq.episodes.returns import returns_to_go
from qseq.episodes.schema import FieldSpec, StoreSchema
from qseq.episodes.store import EpisodeStore
from qseq.errors import DataError, RequestError


class EpisodeView:
    """A selection of episodes of one or more stores with the same fields and action space.

    Args:
        stores: a store or several; episodes are counted through them in order.
        episodes: indices or a boolean mask over all their episodes; None takes all.
        labels: said of the episodes in place of what the stores say; see `relabel`.
        weights: of each store: how often its steps are drawn compared with those of the others; see `weighted`.

    Attributes (one entry an episode of the view):
        lengths: int64, steps.
        terminated, truncated: bool. success: int8, 1 yes, 0 no, -1 unknown.
        instruction_ids: int64, indices into `instructions`, which merges the stores' lists.
        recordings: int64, number of the episode among all of the stores, the same where a view shows one twice.
        store_ids: int64. first_steps, first_frames: int64, rows in the columns of that store.

    Raises:
        DataError: the schemas differ (names the field), or no episode is left.
    """

    def __init__(
        self,
        stores: EpisodeStore | Sequence[EpisodeStore],
        episodes: np.ndarray | Sequence[int] | None = None,
        *,
        labels: Labels | None = None,
        weights: tuple[float, ...] | None = None,
    ) -> None:
        self.stores = [stores] if isinstance(stores, EpisodeStore) else list(stores)
        if not self.stores:
            raise DataError("data: found no store, expected at least one")
        self.schema: StoreSchema = self.stores[0].schema
        for store in self.stores[1:]:
            self.schema.require_same(store.schema, f"{store.path} (compared with {self.stores[0].path})")
        self.labels = labels or Labels.of(self.stores)
        self.weights = weights
        # The same maps as plain arrays: the memmap class costs time on every call.
        self._columns = [
            {n: np.asarray(c) if isinstance(c, np.ndarray) else c for n, c in store.columns.items()}
            | {"reward": rewards}
            for store, rewards in zip(self.stores, self.labels.rewards, strict=True)
        ]
        counts = [store.num_episodes for store in self.stores]
        self.recordings = np.arange(sum(counts), dtype=np.int64)[
            slice(None) if episodes is None else np.asarray(episodes)
        ]
        if not len(self.recordings):
            names = ", ".join(str(store.path) for store in self.stores)
            raise DataError(f"{names}: found 0 episodes{'' if episodes is None else ' chosen'}, expected at least 1")
        self._episodes_before = np.cumsum([0, *counts])
        self.store_ids = np.repeat(np.arange(len(counts)), counts)[self.recordings]
        self.lengths = self._merge([store.lengths for store in self.stores])
        self.first_steps = self._merge([store.first_steps for store in self.stores])
        self.first_frames = self._merge([store.first_frames for store in self.stores])
        self.terminated = self.labels.terminated[self.recordings]
        ended_by_label = self.terminated & ~self._merge([store.terminated for store in self.stores])
        self.truncated = self._merge([store.truncated for store in self.stores]) & ~ended_by_label
        self.success = self.labels.success[self.recordings]
        self.instruction_ids = self.labels.instruction_ids[self.recordings]
        self.instructions = self.labels.instructions

    def _merge(self, parts: list[np.ndarray]) -> np.ndarray:
        return np.concatenate(parts)[self.recordings]

    @property
    def num_episodes(self) -> int:
        return len(self.recordings)

    @property
    def num_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def fields(self) -> dict[str, FieldSpec]:
        """Observation fields: name -> (dtype, shape)."""
        return self.schema.fields

    @property
    def action_space(self) -> dict[str, Any]:
        """JSON form, see `qseq.episodes.action_space`."""
        return self.schema.action_space

    @property
    def success_rate(self) -> float | None:
        """Share of successes among the episodes whose success is known; None if that is no episode."""
        known = self.success >= 0
        return float(np.mean(self.success[known] == 1)) if known.any() else None

    def select(self, episodes: np.ndarray | Sequence[int]) -> EpisodeView:
        """A view of some of these episodes: indices or a boolean mask over this view."""
        recordings = self.recordings[np.asarray(episodes)]
        return EpisodeView(self.stores, recordings, labels=self.labels, weights=self.weights)

    def successes(self) -> EpisodeView:
        """Only the episodes known to be successful.

        Raises:
            DataError: there are none.
        """
        return self.select(self.success == 1)

    def where(self, predicate: Callable[[RecordedEpisode], bool]) -> EpisodeView:
        """Only the episodes of which `predicate` is true.

        Raises:
            DataError: there are none.
        """
        return self.select(np.array([bool(predicate(episode)) for episode in self.recorded()], dtype=bool))

    def relabel(
        self,
        *,
        rewards: Callable[[RecordedEpisode], np.ndarray] | None = None,
        success: Callable[[RecordedEpisode], bool | None] | None = None,
        instruction: Callable[[RecordedEpisode], str] | None = None,
        failures_end: bool = False,
    ) -> EpisodeView:
        """The same episodes with other rewards [T], then success, then instruction, each told by a function.

        A function sees what those before it changed. Nothing is written, and an observation is read only if a function
        asks for it. With `failures_end` episodes that failed are terminated at their last step.

        Raises:
            DataError, RequestError: a function gave something else.
        """
        view = self
        if rewards is not None:
            columns = relabelled_rewards(view.recorded(), view.labels.rewards, rewards)
            view = view._labelled(view.labels.with_rewards(columns))
        if success is not None:
            view = view._labelled(view.labels.with_success(view.recordings, map(success, view.recorded())))
        if failures_end:
            view = view._labelled(view.labels.with_failures_ended())
        if instruction is not None:
            told = map(instruction, view.recorded())
            view = view._labelled(view.labels.with_instructions(view.recordings, told))
        return view

    def weighted(self, weights: Sequence[float]) -> EpisodeView:
        """The same episodes, the steps of store k drawn in proportion to `weights[k]`; 0 leaves a store out.

        Without weights every step comes as often as every other. Only the order of steps changes (`MixedSteps`):
        statistics are those of all episodes.

        Raises:
            RequestError: not one finite number of at least 0 a store, or none above 0.
            DataError: a store that is to be drawn from has no episode in the view.
        """
        if len(weights) != len(self.stores) or not np.isfinite(weights).all() or min(weights) < 0 or max(weights) == 0:
            raise RequestError(
                f"weights: found {list(weights)}, expected {len(self.stores)} numbers of at least 0, one a data set"
            )
        view = self.select(np.array(weights)[self.store_ids] > 0)
        for index, weight in enumerate(weights):
            if weight > 0 and not (view.store_ids == index).any():
                raise DataError(
                    f"{self.stores[index].path}: found 0 episodes chosen, expected some: its weight is {weight}"
                )
        return EpisodeView(view.stores, view.recordings, labels=view.labels, weights=tuple(map(float, weights)))

    def recorded(self) -> Iterator[RecordedEpisode]:
        """Each episode, to look at."""
        for index in range(self.num_episodes):
            yield RecordedEpisode(self, index)

    def place(self, index: int) -> tuple[EpisodeStore, int]:
        """The store of an episode of the view, and its number there."""
        store = int(self.store_ids[index])
        return self.stores[store], int(self.recordings[index] - self._episodes_before[store])

    def episode(self, index: int) -> Episode:
        """Episode `index` of the view, copied into memory."""
        store, number = self.place(index)
        recorded = RecordedEpisode(self, index % self.num_episodes)
        return replace(
            store.episode(number),
            rewards=recorded.rewards,
            terminated=recorded.terminated,
            truncated=recorded.truncated,
            success=recorded.success,
            instruction=recorded.instruction,
        )

    def _labelled(self, labels: Labels) -> EpisodeView:
        return EpisodeView(self.stores, self.recordings, labels=labels, weights=self.weights)

    def take(self, name: str, store_ids: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Rows of a column in a fresh array.

        Args:
            name: of the column.
            store_ids: int [B], the store of each line of `rows`.
            rows: int [B, R], rows of the column in that store; must be in range.

        Returns:
            [B, R, *shape]
        """
        if len(self._columns) == 1:
            return _take(self._columns[0][name], rows)
        result = np.empty((*rows.shape, *self.schema.columns[name].shape), self.schema.columns[name].dtype)
        for index in np.unique(store_ids):
            chosen = np.flatnonzero(store_ids == index)
            result[chosen] = _take(self._columns[index][name], rows[chosen])
        return result

    def rewards(self) -> np.ndarray:
        """float32 [steps], the episodes one after the other."""
        return self._gather_steps("reward", np.arange(self.num_steps))

    def returns(self, discount: float = 1.0) -> np.ndarray:
        """Sum of (discounted) rewards of each episode, float32 [episodes]."""
        first: np.ndarray = self.returns_to_go(discount)[np.cumsum(self.lengths) - self.lengths]
        return first

    def returns_to_go(self, discount: float, min_return: float = 0.0) -> np.ndarray:
        """float32 [steps]; an episode that did not terminate is completed by `min_return` after its last step."""
        final_values = np.where(self.terminated, 0.0, min_return)
        return returns_to_go(self.rewards(), self.lengths, discount, final_values=final_values)

    def action_samples(self, limit: int, seed: int = 0) -> np.ndarray:
        """At most `limit` actions drawn without repetition, [samples, *action_shape]."""
        return self.sample("action", limit, seed)

    def sample(self, name: str, limit: int, seed: int = 0) -> np.ndarray:
        """At most `limit` rows of a column drawn without repetition, in order of time; all if there are no more.

        Of an observation field the rows are those an action was chosen at, not the last of an episode.
        """
        steps = self.num_steps
        if steps <= limit:
            return self._gather_steps(name, np.arange(steps))
        drawn = np.random.Generator(np.random.Philox(seed)).choice(steps, size=limit, replace=False, shuffle=False)
        return self._gather_steps(name, np.sort(drawn))

    def _gather_steps(self, name: str, steps: np.ndarray) -> np.ndarray:
        """Rows of a column at steps counted through the view."""
        ends = np.cumsum(self.lengths)
        episodes = np.searchsorted(ends, steps, side="right")
        first = self.first_frames if name in self.fields else self.first_steps
        rows = first[episodes] + steps - (ends - self.lengths)[episodes]
        return self.take(name, self.store_ids[episodes], rows[:, None])[:, 0]


def _take(column: np.ndarray | ImageColumn, rows: np.ndarray) -> np.ndarray:
    taken: np.ndarray = column.take(rows, axis=0)  # three times as fast as column[rows]
    return taken
