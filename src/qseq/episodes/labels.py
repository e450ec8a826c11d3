"""What a view says of its episodes in place of what the stores say: rewards, success, end, instruction.

The stores stay as they are. New rewards take four bytes a step of memory, the rest a few bytes an episode.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from qseq.episodes.recorded import RecordedEpisode
from qseq.episodes.store import EpisodeStore
from qseq.errors import DataError, RequestError


@dataclass(frozen=True)
class Labels:
    """One entry a recorded episode of all stores, in order.

    Attributes:
        success: int8, 1 yes, 0 no, -1 unknown.
        terminated: bool.
        instruction_ids: int64, indices into `instructions`.
        instructions: all different.
        rewards: a reward column for each store.
    """

    success: np.ndarray
    terminated: np.ndarray
    instruction_ids: np.ndarray
    instructions: list[str]
    rewards: list[np.ndarray]

    @classmethod
    def of(cls, stores: Sequence[EpisodeStore]) -> Labels:
        """What the stores say themselves."""
        numbers: dict[str, int] = {}
        merged = [
            np.array([numbers.setdefault(text, len(numbers)) for text in store.instructions], dtype=np.int64)[
                store.instruction_ids
            ]
            for store in stores
        ]
        rewards = [np.asarray(store.columns["reward"]) for store in stores]
        success, terminated = (np.concatenate([getattr(s, n) for s in stores]) for n in ("success", "terminated"))
        return cls(success, terminated, np.concatenate(merged), list(numbers), rewards)

    def with_success(self, recordings: np.ndarray, said: Iterable[bool | None]) -> Labels:
        """Other successes of some recordings. Raises RequestError unless each is True, False or None."""
        success = self.success.copy()
        for recording, value in zip(recordings, said, strict=True):
            if value is not None and not isinstance(value, bool | np.bool_):
                raise RequestError(f"relabelled success: found {value!r}, expected True, False or None")
            success[recording] = -1 if value is None else int(value)
        return replace(self, success=success)

    def with_failures_ended(self) -> Labels:
        """Episodes known to have failed are terminated, whatever ended them."""
        return replace(self, terminated=self.terminated | (self.success == 0))

    def with_instructions(self, recordings: np.ndarray, texts: Iterable[str]) -> Labels:
        """Other instructions of some recordings. Raises RequestError unless each is a text."""
        numbers = {text: number for number, text in enumerate(self.instructions)}
        ids = self.instruction_ids.copy()
        for recording, text in zip(recordings, texts, strict=True):
            if not isinstance(text, str):
                raise RequestError(f"relabelled instruction: found {text!r}, expected a text")
            ids[recording] = numbers.setdefault(text, len(numbers))
        told = list(numbers)
        used, ids = np.unique(ids, return_inverse=True)  # texts that nobody is told any more are forgotten
        return replace(self, instruction_ids=ids.astype(np.int64), instructions=[told[number] for number in used])

    def with_rewards(self, rewards: list[np.ndarray]) -> Labels:
        return replace(self, rewards=rewards)


def relabelled_rewards(
    episodes: Iterator[RecordedEpisode],
    columns: list[np.ndarray],
    function: Callable[[RecordedEpisode], np.ndarray],
) -> list[np.ndarray]:
    """New reward columns, in which the episodes have the rewards of `function`, float [T].

    Raises:
        DataError: rewards of another shape, or that are not finite numbers; names the episode.
    """
    new = [np.array(column) for column in columns]
    for episode in episodes:
        view, index = episode.view, episode.index
        rewards = np.asarray(function(episode), dtype=np.float32)
        store, number = view.place(index)
        where = f"{store.path}, episode {number}: relabelled rewards"
        if rewards.shape != (episode.num_steps,):
            raise DataError(f"{where}: found shape {list(rewards.shape)}, expected [{episode.num_steps}]")
        if not np.isfinite(rewards).all():
            raise DataError(f"{where}: found numbers that are not finite")
        first = view.first_steps[index]
        new[view.store_ids[index]][first : first + episode.num_steps] = rewards
    return new
