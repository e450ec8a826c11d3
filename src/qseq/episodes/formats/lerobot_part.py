"""One part of a LeRobot data set while it is written: a data file, a film a camera, the rows of its episodes."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from qseq.episodes.episode import Episode
from qseq.episodes.formats import lerobot_statistics as statistics
from qseq.episodes.formats.images import encode_png
from qseq.episodes.formats.lerobot_extras import FINAL
from qseq.episodes.formats.lerobot_features import Column, outcome_features
from qseq.episodes.formats.lerobot_layout import (
    ACTION,
    BOOK_KEEPING,
    DATA_PATH,
    DONE,
    EPISODES_FOLDER,
    EXTRA_EPISODES_FOLDER,
    FILES_A_CHUNK,
    REWARD,
    SUCCESS,
    TRUNCATED,
    VIDEO_PATH,
    libraries,
)
from qseq.episodes.formats.video import FilmWriter
from qseq.episodes.store import EpisodeStore
from qseq.files import sync_file, sync_folder
from qseq.progress import Progress

MOST_FRAMES = 10_000
MOST_DATA_BYTES = 100 * 2**20
MOST_FILM_BYTES = 200 * 2**20
_PARQUET: dict[str, Any] = {"compression": "snappy", "write_page_checksum": True}  # flipped bits are noticed
_NAME = "chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"


def place(number: int) -> dict[str, int]:
    """Chunk and file of a part."""
    return {"chunk_index": number // FILES_A_CHUNK, "file_index": number % FILES_A_CHUNK}


def episode_files(number: int) -> tuple[str, str]:
    """The part's file in meta/episodes and the one in meta/qseq_episodes."""
    name = _NAME.format(**place(number))
    return f"{EPISODES_FOLDER}/{name}", f"{EXTRA_EPISODES_FOLDER}/{name}"


class Part:
    """Writes episodes from a given one on until the part is large enough; nothing of it counts before it is whole."""

    def __init__(
        self,
        root: Path,
        number: int,
        store: EpisodeStore,
        columns: list[Column],
        rate: Fraction,
        success_known: bool,
        keep_fps: bool,
    ) -> None:
        self._root = root
        self._number = number
        self._store = store
        self._columns = columns
        self._rate = rate
        self._success_known = success_known
        self._keep_fps = keep_fps
        self._films: dict[str, FilmWriter] = {}
        self._writer: Any = None
        self._rows: list[dict[str, Any]] = []
        self._extras: list[dict[str, Any]] = []
        self._frames = 0
        self._num_bytes = 0

    def __enter__(self) -> Part:
        for column in self._columns:
            if column.kind == "video":
                path = self._make(VIDEO_PATH.format(video_key=column.key, **place(self._number)))
                self._films[column.key] = FilmWriter(path, self._rate, column.shape[0], column.shape[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for film in self._films.values():
            film.close()
        if self._writer is not None:
            self._writer.close()

    def write(self, first: int, progress: Progress) -> int:
        """Write episodes from `first` on; returns the number of the next one."""
        index = first
        while index < self._store.num_episodes and not self._full():
            self._add(index, self._store.episode(index))
            index += 1
            progress.advance()
        self._finish()
        return index

    def _full(self) -> bool:
        return (
            self._frames >= MOST_FRAMES
            or self._num_bytes >= MOST_DATA_BYTES
            or any(film.num_bytes >= MOST_FILM_BYTES for film in self._films.values())
        )

    def _add(self, index: int, episode: Episode) -> None:
        pyarrow, parquet = libraries()
        steps, start = episode.num_steps, int(self._store.first_steps[index])
        row: dict[str, Any] = {
            "episode_index": index,
            "tasks": [episode.instruction],
            "length": steps,
            "data/chunk_index": place(self._number)["chunk_index"],
            "data/file_index": place(self._number)["file_index"],
            "dataset_from_index": start,
            "dataset_to_index": start + steps,
        }
        metadata = dict(episode.metadata) | ({"fps": float(self._rate)} if self._keep_fps else {})
        extra: dict[str, Any] = {
            "episode_index": index,
            "length": steps,
            "terminated": bool(episode.terminated),
            "truncated": bool(episode.truncated),
            "success": -1 if episode.success is None else int(episode.success),
            "metadata": json.dumps(metadata),
        }
        measured: statistics.Statistics = {}
        arrays: dict[str, Any] = {}
        for column in self._columns:
            values = episode.actions if column.key == ACTION else episode.observations[column.field]
            if column.kind == "numbers":
                arrays[column.key] = _array(pyarrow, values[:steps], column.shape)
                measured[column.key] = statistics.of_numbers(values[:steps])
                if column.key != ACTION:
                    extra[FINAL + column.key] = values[-1].reshape(column.shape)
                continue
            pictures = column.pictures(values)
            measured[column.key] = statistics.of_pictures(pictures[:steps])
            extra[FINAL + column.key] = encode_png(pictures[-1])
            if column.kind == "image":
                arrays[column.key] = _pictures(pyarrow, pictures[:steps])
            else:
                row |= self._film(column.key, pictures[:steps])
        scalars = self._scalars(index, start, episode)
        arrays |= {key: pyarrow.array(values) for key, values in scalars.items()}
        measured |= {key: statistics.of_numbers(values) for key, values in scalars.items()}
        for key, found in measured.items():
            row |= {f"stats/{key}/{name}": found[name].tolist() for name in statistics.NAMES}
        table = pyarrow.table(arrays)
        if self._writer is None:
            path = self._make(DATA_PATH.format(**place(self._number)))
            self._writer = parquet.ParquetWriter(path, table.schema, **_PARQUET)
        self._writer.write_table(table)  # one row group an episode: it can be read by itself
        self._frames += steps
        self._num_bytes += table.nbytes
        self._rows.append(row)
        self._extras.append(extra)

    def _film(self, key: str, pictures_THWC: np.ndarray) -> dict[str, Any]:
        film = self._films[key]
        first = film.num_frames
        for picture in pictures_THWC:
            film.add(picture)
        return {
            f"videos/{key}/chunk_index": place(self._number)["chunk_index"],
            f"videos/{key}/file_index": place(self._number)["file_index"],
            f"videos/{key}/from_timestamp": float(first / self._rate),
            f"videos/{key}/to_timestamp": float(film.num_frames / self._rate),
        }

    def _scalars(self, index: int, start: int, episode: Episode) -> dict[str, np.ndarray]:
        steps = episode.num_steps
        order = np.arange(steps)
        last = order == steps - 1
        values = {
            REWARD: episode.rewards.astype(np.float32),
            DONE: last & (episode.terminated or episode.truncated),
            TRUNCATED: last & episode.truncated,
            SUCCESS: last & (episode.success is True),
            "timestamp": (order / float(self._rate)).astype(np.float32),
            "frame_index": order,
            "episode_index": np.full(steps, index),
            "index": start + order,
            "task_index": np.full(steps, self._store.instruction_ids[index]),
        }
        return {key: values[key] for key in [*outcome_features(self._success_known), *BOOK_KEEPING]}

    def _finish(self) -> None:
        """Everything durable, then the file of episodes in its place."""
        pyarrow, parquet = libraries()
        self.__exit__(None, None, None)
        self._writer = None
        episodes, extras = (self._make(name) for name in episode_files(self._number))
        numbers = place(self._number)
        for row in self._rows:
            row |= {f"meta/episodes/{name}": value for name, value in numbers.items()}
        table = {name: _cells(pyarrow, [extra[name] for extra in self._extras]) for name in self._extras[0]}
        parquet.write_table(pyarrow.table(table), extras, **_PARQUET)
        unfinished = episodes.with_name(f".{episodes.name}.tmp")
        parquet.write_table(pyarrow.Table.from_pylist(self._rows), unfinished, **_PARQUET)
        for path in (*self._paths(), extras, unfinished):
            sync_file(path)
        unfinished.rename(episodes)
        sync_folder(episodes.parent)

    def _paths(self) -> list[Path]:
        numbers = place(self._number)
        films = [VIDEO_PATH.format(video_key=key, **numbers) for key in self._films]
        return [self._root / name for name in (DATA_PATH.format(**numbers), *films)]

    def _make(self, name: str) -> Path:
        path = self._root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def _array(pyarrow: Any, values: np.ndarray, shape: tuple[int, ...]) -> Any:
    """[T, ...] as LeRobot keeps it: a number, a list of fixed length, or lists of lists."""
    if shape == (1,):
        return pyarrow.array(values.reshape(-1))
    if len(shape) == 1:
        return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(values.reshape(-1)), shape[0])
    nested = pyarrow.array(values.reshape(-1))
    for size in reversed(shape):
        nested = pyarrow.ListArray.from_arrays(np.arange(0, len(nested) + 1, size, dtype=np.int32), nested)
    return nested


def _pictures(pyarrow: Any, pictures_THWC: np.ndarray) -> Any:
    """As the datasets library keeps images."""
    files = pyarrow.array([encode_png(picture) for picture in pictures_THWC], pyarrow.binary())
    names = pyarrow.array([f"frame-{row:06d}.png" for row in range(len(pictures_THWC))])
    return pyarrow.StructArray.from_arrays([files, names], ["bytes", "path"])


def _cells(pyarrow: Any, values: list[Any]) -> Any:
    if isinstance(values[0], np.ndarray):
        stacked = np.stack(values)
        return _array(pyarrow, stacked, stacked.shape[1:])
    return pyarrow.array(values)
