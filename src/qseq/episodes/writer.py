"""Append episodes to a store so that a crash at any moment loses at most the episode being written."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np

from qseq.episodes import disk
from qseq.episodes.codings import ImageCoding
from qseq.episodes.column_files import ColumnFiles, EncodedRows, open_column_files
from qseq.episodes.commit_log import LOG_FILE, encode_record, image_bytes, read_log
from qseq.episodes.episode import Episode
from qseq.episodes.schema import COLUMN_FOLDER, SCHEMA_FILE, StoreSchema, read_schema, schema_bytes
from qseq.errors import RequestError
from qseq.files import sync_folder, write_atomic

LOCK_FILE = "lock"
_GROUP_EPISODES = 64
_GROUP_BYTES = 64 * 2**20


class StoreWriter:
    """The one writer of a store; creates the folder if there is none.

    Columns are appended and flushed to the disk before the episode's line is appended to the commit log and flushed.
    What a killed writer left behind an unfinished episode is cut away here.

    Args:
        path: the store's folder.
        schema: what the episodes look like; may be left out for a store that exists.
        append: False refuses a store that exists. Nothing is ever overwritten.
        action_space: JSON form; enough to create a store, whose fields are then those of the first episode.
        env, dimension_names: of the schema, for a store created from `action_space`.
        images: "raw", "png", "jpeg" or "jpeg:QUALITY": how a new store keeps its pictures (see `ImageCoding`); a store
            that exists keeps them as it does, and refuses anything else. Raw by default.

    Raises:
        DataError: the store exists with another schema or was damaged.
        RequestError: the path is something else, another process writes to it, or there is nothing to create it from.
    """

    def __init__(
        self,
        path: str | Path,
        schema: StoreSchema | None = None,
        *,
        append: bool = True,
        action_space: Mapping[str, Any] | None = None,
        env: dict[str, Any] | None = None,
        dimension_names: Mapping[str, list[str]] | None = None,
        images: str | None = None,
    ) -> None:
        self.path = Path(path)
        self.schema: StoreSchema | None = None
        self.num_episodes = 0
        self.num_steps = 0
        self._action_space = dict(action_space) if action_space is not None else None
        self._env = env
        self._dimension_names = dict(dimension_names or {})
        self._images = images
        self._columns: dict[str, ColumnFiles] = {}
        self._log: IO[bytes] | None = None
        self._log_bytes = 0
        if images is not None:
            ImageCoding.parse(images)
        exists = (self.path / SCHEMA_FILE).is_file()
        if exists and not append:
            raise RequestError(f"{self.path} exists already; choose another path, or append to it")
        if not exists:
            _require_unused(self.path)
            if schema is None and action_space is None:
                raise RequestError(f"{self.path} does not exist yet: give a schema or an action space to create it")
        with disk.translated_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = disk.hold_lock(self.path / LOCK_FILE, str(self.path))
        try:
            if (self.path / SCHEMA_FILE).is_file():
                self._open(schema)
            elif schema is not None:
                self._create(schema.with_images(images))
        except BaseException:
            self.close()
            raise

    def add(self, episode: Episode) -> int:
        """Append one episode; it is on the disk when this returns. Returns its index.

        Raises:
            DataError: the episode is not valid or does not fit the store; the store is as it was.
            RequestError: the disk is full or cannot be written; the store is as it was.
        """
        self._append([episode])
        return self.num_episodes - 1

    def extend(self, episodes: Iterable[Episode]) -> int:
        """Append many episodes, flushing to the disk once a group: much faster than `add` for conversions.

        Returns how many were appended. Raises as `add` does; the groups before the failed one stay written.
        """
        first = self.num_episodes
        for group in grouped(episodes):
            self._append(group)
        return self.num_episodes - first

    def close(self) -> None:
        """Close the files and let another writer in. May be called twice."""
        self._close_files()
        self._lock.close()

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, episodes: list[Episode]) -> None:
        if self._lock.closed:
            raise RequestError(f"{self.path}: this writer was closed; open another one to append")
        prepared = [self._prepare(self.num_episodes + i, episode) for i, episode in enumerate(episodes)]
        if self._log is None:
            assert self.schema is not None
            self._create(self.schema)
        assert self._log is not None
        encoded = [{name: self._columns[name].encode(rows) for name, rows in columns.items()} for columns in prepared]
        steps = self.num_steps
        lines = []
        try:
            with disk.translated_errors(self.path):
                for i, (episode, columns) in enumerate(zip(episodes, encoded, strict=True)):
                    for name, rows in columns.items():
                        self._columns[name].append(rows)
                    lines.append(encode_record(_record(self.num_episodes + i, steps, episode, columns)))
                    steps += episode.num_steps
                for files in self._columns.values():
                    files.synchronise()
                disk.write(self._log, b"".join(lines))
                disk.synchronise(self._log)
        except BaseException:
            self._cut_back()
            raise
        for files in self._columns.values():
            files.commit()
        self.num_episodes += len(episodes)
        self.num_steps = steps
        self._log_bytes += sum(map(len, lines))

    def _prepare(self, index: int, episode: Episode) -> dict[str, np.ndarray]:
        where = f"{self.path}, episode {index}"
        episode.validate(where)
        if self.schema is None:
            assert self._action_space is not None
            schema = StoreSchema.infer(episode, self._action_space, self._env, self._dimension_names)
            schema = schema.with_images(self._images)
            columns = schema.conform(episode, where)
            self.schema = schema  # only once its first episode fits it
            return columns
        return self.schema.conform(episode, where)

    def _create(self, schema: StoreSchema) -> None:
        try:
            with disk.translated_errors(self.path):
                (self.path / COLUMN_FOLDER).mkdir(exist_ok=True)
                for leftover in self.path.glob(f".{SCHEMA_FILE}.*"):  # of a writer killed while it wrote the schema
                    leftover.unlink()
                self.schema = schema
                self._open_files({})
                sync_folder(self.path / COLUMN_FOLDER)
                # The schema comes last: a folder that has one is a whole store.
                write_atomic(self.path / SCHEMA_FILE, schema_bytes(schema))
                sync_folder(self.path.parent)
        except BaseException:
            self._close_files()  # so that the next episode tries again instead of writing to a store without a schema
            raise

    def _open(self, schema: StoreSchema | None) -> None:
        self.schema = read_schema(self.path)
        if schema is not None:
            self.schema.require_same(schema, str(self.path))
        elif self._action_space is not None:
            self.schema.require_same(StoreSchema(self.schema.fields, self._action_space), str(self.path))
        if self._images is not None and (asked := self.schema.with_images(self._images)).codings != self.schema.codings:
            raise RequestError(
                f"{self.path}: images: found {self._images!r}, expected what the store has: "
                f"{self.schema.codings or 'raw'} (asked for: {asked.codings or 'raw'})"
            )
        log = read_log(self.path)
        self.num_episodes, self.num_steps, self._log_bytes = len(log.records), log.num_steps, log.num_bytes
        with disk.translated_errors(self.path):
            self._open_files(image_bytes(self.schema, log.records))
            self._cut_back()

    def _open_files(self, num_bytes: dict[str, int]) -> None:
        assert self.schema is not None
        self._columns = open_column_files(
            self.path, self.schema, num_episodes=self.num_episodes, num_steps=self.num_steps, image_bytes=num_bytes
        )
        self._log = (self.path / LOG_FILE).open("ab", buffering=0)

    def _close_files(self) -> None:
        for files in self._columns.values():
            files.close()
        self._columns = {}
        if self._log is not None:
            self._log.close()
        self._log = None

    def _cut_back(self) -> None:
        """Cut every file back to what is committed, the log first: it must never name rows that are gone."""
        assert self._log is not None
        with contextlib.suppress(FileNotFoundError):
            self._log.truncate(self._log_bytes)
            for files in self._columns.values():
                files.cut_back()


def grouped(episodes: Iterable[Episode]) -> Iterator[list[Episode]]:
    """Lists of episodes, each small enough to be held in memory and large enough to share one flush to the disk."""
    group: list[Episode] = []
    num_bytes = 0
    for episode in episodes:
        group.append(episode)
        num_bytes += sum(values.nbytes for values in episode.observations.values()) + episode.actions.nbytes
        if len(group) == _GROUP_EPISODES or num_bytes >= _GROUP_BYTES:
            yield group
            group, num_bytes = [], 0
    if group:
        yield group


def _record(index: int, first_step: int, episode: Episode, columns: dict[str, EncodedRows]) -> dict[str, Any]:
    compressed = {name: rows.content.nbytes for name, rows in columns.items() if rows.index is not None}
    return {
        "index": index,
        "first_step": first_step,
        "steps": episode.num_steps,
        "terminated": bool(episode.terminated),
        "truncated": bool(episode.truncated),
        "success": -1 if episode.success is None else int(episode.success),
        "instruction": episode.instruction,
        "metadata": dict(episode.metadata),
        "columns": {name: rows.checksum for name, rows in columns.items()},
        **({"bytes": compressed} if compressed else {}),
    }


def _require_unused(path: Path) -> None:
    """Refuse a path that holds anything but the beginnings of a store."""
    if path.exists() and not path.is_dir():
        raise RequestError(f"{path} is a file, expected an episode store or a path that does not exist")
    if not path.is_dir():
        return
    ours = {LOCK_FILE, COLUMN_FOLDER, LOG_FILE}
    names = sorted(entry.name for entry in path.iterdir())
    foreign = [name for name in names if name not in ours and not name.startswith(f".{SCHEMA_FILE}.")]
    log = path / LOG_FILE
    if foreign or (log.is_file() and log.stat().st_size):
        what = f"it holds {foreign[0]!r}" if foreign else f"it has episodes but no {SCHEMA_FILE}"
        raise RequestError(f"{path} is not an episode store ({what}); choose another path")
