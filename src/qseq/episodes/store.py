"""Read a store: memory maps over its columns and the list of its episodes."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.commit_log import image_bytes, read_log
from qseq.episodes.episode import Episode
from qseq.episodes.image_column import INDEX_ENTRY, ImageColumn
from qseq.episodes.returns import returns_to_go
from qseq.episodes.schema import StoreSchema, column_path, index_path, read_schema
from qseq.errors import DataError


class EpisodeStore:
    """A store as it was when it was opened; open it again to see episodes written since.

    Opening reads the commit log and maps the columns: its time and memory grow with the number of episodes only.

    Attributes:
        path: the folder.
        schema: fields, action space, environment.
        columns: name -> memory map [rows, *shape], or an `ImageColumn` of that shape where pictures are compressed;
            observation fields have T+1 rows an episode, "action" and "reward" T rows.
        lengths: int64 [episodes], T of each.
        first_steps, first_frames: int64 [episodes], row of the first action and of the first observation.
        terminated, truncated: bool [episodes].
        success: int8 [episodes]: 1 yes, 0 no, -1 unknown.
        instruction_ids: int64 [episodes], indices into `instructions`.
        metadata: one dictionary an episode.
        checksums: column name -> crc32 of its bytes, one dictionary an episode.
    """

    def __init__(self, path: Path, schema: StoreSchema, records: list[dict[str, Any]]) -> None:
        self.path = path
        self.schema = schema
        self.lengths = np.array([r["steps"] for r in records], dtype=np.int64)
        self.first_steps = np.cumsum(self.lengths) - self.lengths
        self.first_frames = self.first_steps + np.arange(len(records))
        self.terminated = np.array([r["terminated"] for r in records], dtype=bool)
        self.truncated = np.array([r["truncated"] for r in records], dtype=bool)
        self.success = np.array([r["success"] for r in records], dtype=np.int8)
        ids: dict[str, int] = {}
        self.instruction_ids = np.array([ids.setdefault(r["instruction"], len(ids)) for r in records], dtype=np.int64)
        self.instructions = list(ids)
        self.metadata: list[dict[str, Any]] = [r["metadata"] for r in records]
        self.checksums: list[dict[str, int]] = [r["columns"] for r in records]
        sizes = image_bytes(schema, records)
        self.columns: dict[str, np.ndarray | ImageColumn] = {
            name: self._compressed(name, sizes[name]) if name in sizes else self._map(name) for name in schema.columns
        }

    @classmethod
    def open(cls, path: str | Path) -> EpisodeStore:
        """Open a store for reading; any number of processes may.

        Raises:
            DataError: not a store, or its schema, log or a column file was damaged or cut short.
        """
        folder = Path(path)
        schema = read_schema(folder)
        return cls(folder, schema, read_log(folder).records)

    @property
    def num_episodes(self) -> int:
        return len(self.lengths)

    @property
    def num_steps(self) -> int:
        return int(self.lengths.sum())

    @property
    def num_frames(self) -> int:
        """Observations: one an episode more than steps."""
        return self.num_steps + self.num_episodes

    def num_rows(self, name: str) -> int:
        """Rows of a column."""
        return self.num_frames if name in self.schema.fields else self.num_steps

    def rows(self, name: str, index: int) -> slice:
        """The rows of episode `index` in a column."""
        if name in self.schema.fields:
            first = int(self.first_frames[index])
            return slice(first, first + int(self.lengths[index]) + 1)
        first = int(self.first_steps[index])
        return slice(first, first + int(self.lengths[index]))

    def episode(self, index: int) -> Episode:
        """Episode `index` (negative counts from the end), copied into memory.

        Raises:
            IndexError: there is no such episode.
        """
        if not -self.num_episodes <= index < self.num_episodes:
            raise IndexError(f"episode {index} of {self.num_episodes} in {self.path}")
        index %= self.num_episodes
        values = {name: np.array(self.columns[name][self.rows(name, index)]) for name in self.columns}
        success = int(self.success[index])
        return Episode(
            observations={name: values[name] for name in self.schema.fields},
            actions=values["action"],
            rewards=values["reward"],
            terminated=bool(self.terminated[index]),
            truncated=bool(self.truncated[index]),
            success=None if success < 0 else bool(success),
            instruction=self.instructions[self.instruction_ids[index]],
            metadata=dict(self.metadata[index]),
        )

    def returns(self, discount: float = 1.0) -> np.ndarray:
        """Sum of (discounted) rewards of each episode, float32 [episodes]."""
        to_go = returns_to_go(np.asarray(self.columns["reward"]), self.lengths, discount)
        returns: np.ndarray = to_go[self.first_steps]
        return returns

    def verify(self) -> None:
        """Read everything: checksums, finite values, action bounds.

        Raises:
            DataError: names the first episode and field, and the step where there is one.
        """
        from qseq.episodes.verification import verify_episode

        for index in range(self.num_episodes):
            verify_episode(self, index, self.checksums[index])

    def place(self, name: str, row: int) -> str:
        """How messages name a row of a column."""
        if name in self.schema.fields:
            episode = int(np.searchsorted(self.first_frames, row, side="right")) - 1
            step = row - int(self.first_frames[episode])
        else:
            episode = int(np.searchsorted(self.first_steps, row, side="right")) - 1
            step = row - int(self.first_steps[episode])
        return f"{self.path}, episode {episode}: field '{name}', step {step}"

    def _map(self, name: str) -> np.ndarray:
        spec = self.schema.columns[name]
        rows = self.num_rows(name)
        content = self._bytes(column_path(self.path, name), rows * spec.row_bytes, f"{rows} rows of '{name}'")
        return content.view(spec.storage_dtype).reshape(rows, *spec.shape)

    def _compressed(self, name: str, num_bytes: int) -> ImageColumn:
        rows, coding = self.num_rows(name), self.schema.coding(name)
        assert coding is not None
        entries = self._bytes(
            index_path(self.path, name), rows * INDEX_ENTRY.itemsize, f"the places of {rows} frames of '{name}'"
        )
        content = self._bytes(column_path(self.path, name), num_bytes, f"{rows} frames of '{name}'")
        return ImageColumn(
            content, entries.view(INDEX_ENTRY), self.schema.columns[name], coding, partial(self.place, name)
        )

    def _bytes(self, path: Path, expected: int, what: str) -> np.ndarray:
        """The first `expected` bytes of a file, memory-mapped."""
        found = path.stat().st_size if path.is_file() else -1
        if found < expected:
            there = "no such file" if found < 0 else f"{found} bytes"
            raise DataError(f"{path} is damaged: found {there}, expected {expected} bytes ({what})")
        if expected == 0:
            return np.empty(0, np.uint8)
        return np.memmap(path, dtype=np.uint8, mode="r", shape=(expected,))
