"""Where the rows and frames of each LeRobot episode lie, and the texts of its tasks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from qseq.episodes.formats.lerobot_layout import EPISODES_FOLDER, TASKS, Info
from qseq.episodes.formats.parquet import ParquetRows, numbers
from qseq.errors import DataError


@dataclass(frozen=True)
class Place:
    """Of one episode: `first_row` counts in its data file; `videos` has (chunk, file, first second) of each film."""

    episode: int
    length: int
    data_chunk: int
    data_file: int
    first_row: int
    videos: dict[str, tuple[int, int, float]]


@dataclass(frozen=True)
class EpisodeIndex:
    """int64 [episodes] arrays; `videos`: feature -> (chunk, file, from_timestamp)."""

    episodes: np.ndarray
    lengths: np.ndarray
    chunks: np.ndarray
    files: np.ndarray
    first_rows: np.ndarray
    videos: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]

    def __len__(self) -> int:
        return len(self.episodes)

    def place(self, position: int) -> Place:
        return Place(
            episode=int(self.episodes[position]),
            length=int(self.lengths[position]),
            data_chunk=int(self.chunks[position]),
            data_file=int(self.files[position]),
            first_row=int(self.first_rows[position]),
            videos={
                key: (int(chunk[position]), int(file[position]), float(start[position]))
                for key, (chunk, file, start) in self.videos.items()
            },
        )


def read_index(root: Path, info: Info) -> EpisodeIndex:
    """Read meta/episodes: as much memory as there are episodes.

    Raises:
        DataError: a file is missing or damaged, or its numbers do not fit meta/info.json.
    """
    paths = sorted((root / EPISODES_FOLDER).glob("*/*.parquet"))
    if not paths:
        raise DataError(f"{root}: found no Parquet file in {EPISODES_FOLDER}, expected at least one")
    films = [key for key, feature in info.features.items() if feature.kind == "video"]
    whole = ["episode_index", "length", "data/chunk_index", "data/file_index", "dataset_from_index"]
    for key in films:
        whole += [f"videos/{key}/chunk_index", f"videos/{key}/file_index"]
    starts = [f"videos/{key}/from_timestamp" for key in films]
    parts: dict[str, list[np.ndarray]] = {name: [] for name in whole + starts}
    for path in paths:
        with closing(ParquetRows(path, whole + starts)) as rows:
            if rows.num_rows > info.num_episodes:
                raise DataError(f"{path}: found {rows.num_rows} episodes, expected at most {info.num_episodes}")
            table = rows.read(0, rows.num_rows)
            for name, values in parts.items():
                values.append(numbers(table, name, (), "float64" if name in starts else "int64", str(path)))
    found = {name: np.concatenate(values) for name, values in parts.items()}
    order = np.argsort(found["episode_index"], kind="stable")
    found = {name: values[order] for name, values in found.items()}
    lengths, chunks, files = found["length"], found["data/chunk_index"], found["data/file_index"]
    if len(lengths) != info.num_episodes or (lengths < 1).any() or int(lengths.astype(object).sum()) != info.num_frames:
        raise DataError(
            f"{root}: found {len(lengths)} episodes of {lengths.astype(object).sum()} frames in {EPISODES_FOLDER}, "
            f"expected {info.num_episodes} of {info.num_frames} (meta/info.json), each with at least one"
        )
    return EpisodeIndex(
        episodes=found["episode_index"],
        lengths=lengths,
        chunks=chunks,
        files=files,
        first_rows=_rows_in_file(chunks, files, found["dataset_from_index"]),
        videos={
            key: (
                found[f"videos/{key}/chunk_index"],
                found[f"videos/{key}/file_index"],
                found[f"videos/{key}/from_timestamp"],
            )
            for key in films
        },
    )


def _rows_in_file(chunks: np.ndarray, files: np.ndarray, first: np.ndarray) -> np.ndarray:
    """A data file begins with the first of its episodes."""
    _, members = np.unique(np.stack([chunks, files]), axis=1, return_inverse=True)
    members = members.reshape(-1)
    least = np.full(int(members.max(initial=0)) + 1, np.iinfo(np.int64).max)
    np.minimum.at(least, members, first)
    return np.asarray(first - least[members])


def read_tasks(root: Path) -> dict[int, str]:
    """task_index -> text. The text is the data frame's index, so its column has one of several names.

    Raises:
        DataError: the file is missing, damaged, or has not one number and one text.
    """
    path = root / TASKS
    with closing(ParquetRows(path, [])) as rows:
        names = rows.names
    texts = [name for name in names if name != "task_index"]
    if "task_index" not in names or not texts:
        raise DataError(f"{path}: found columns {names}, expected 'task_index' and the text")
    with closing(ParquetRows(path, ["task_index", texts[-1]])) as rows:
        table = rows.read(0, rows.num_rows)
    indices = numbers(table, "task_index", (), "int64", str(path))
    try:
        found = [str(text) for text in table.column(texts[-1]).to_pylist()]
    except ValueError as error:
        raise DataError(f"{path} is damaged: a task is not text ({error})") from error
    return dict(zip(indices.tolist(), found, strict=True))
