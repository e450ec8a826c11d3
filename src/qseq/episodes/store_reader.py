"""A store read like a data set in another format, to copy it."""

from __future__ import annotations

from collections.abc import Iterator

from qseq.episodes.episode import Episode
from qseq.episodes.formats.base import Losses
from qseq.episodes.store import EpisodeStore


class StoreReader:
    """An `EpisodeReader` of a store."""

    def __init__(self, store: EpisodeStore) -> None:
        self.name = store.path.name
        self.num_episodes = store.num_episodes
        self.action_space = store.schema.action_space
        self.env = store.schema.env
        self.dimension_names = store.schema.dimension_names
        self.losses = Losses()
        self._store = store

    def episodes(self, first: int = 0) -> Iterator[Episode]:
        for index in range(first, self.num_episodes):
            yield self._store.episode(index)
