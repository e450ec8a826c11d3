"""A store written as a LeRobotDataset v3 that the `lerobot` package opens; see `lerobot_layout` for the files.

A LeRobot episode has T frames, so the observation after the last action has no place in it. It is written beside the
data set with what else LeRobot cannot hold, and qseq reads it back from there.

The work is cut into parts of a few thousand frames, each a data file, a film a camera, and a file of episodes, which is
put in its place last: a part is there once that file is, so an interrupted export goes on after the last whole part.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.formats import lerobot_statistics as statistics
from qseq.episodes.formats.lerobot_features import Column, columns_of, scalar_features
from qseq.episodes.formats.lerobot_layout import (
    DATA_PATH,
    EXTRAS,
    FILES_A_CHUNK,
    INFO,
    STATS,
    TASKS,
    VERSION,
    VIDEO_PATH,
    checksum,
    libraries,
)
from qseq.episodes.formats.lerobot_part import Part, episode_files
from qseq.episodes.formats.video import CODEC, FilmReader, decibels, squared_error
from qseq.episodes.store import EpisodeStore
from qseq.errors import RequestError
from qseq.files import write_atomic
from qseq.progress import Progress

DEFAULT_FPS = 10
_EPISODES_FOR_PSNR = 8
_FRAMES_FOR_PSNR = 100


def write_lerobot(store: EpisodeStore, staging: Path, *, fps: float | None = None, images: str = "video") -> list[str]:
    """Write a store as a LeRobot data set into `staging`, going on where an earlier call was interrupted.

    Args:
        store: what to write.
        staging: the data set's folder while it is not whole; the caller renames it.
        fps: frames a second; by default what the episodes' metadata says ("fps"), else 10.
        images: "video" (AV1, small, not exact) or "png" (in Parquet, exact).

    Returns:
        Notes, one line each, about what could not be kept as it was.

    Raises:
        RequestError: a library is missing, the store is empty, or `fps` or `images` is not valid.
    """
    libraries()
    if store.num_episodes == 0:
        raise RequestError(f"{store.path}: found 0 episodes, expected at least 1 to write a LeRobot data set")
    if images not in ("video", "png"):
        raise RequestError(f"images: found {images!r}, expected 'video' or 'png'")
    notes: list[str] = []
    rate = _rate(store, fps, notes)
    columns = columns_of(store.schema, images)
    success_known = bool((store.success >= 0).any())
    finished = _finished_parts(staging)
    done = sum(rows for _, rows in finished)
    with Progress("writing LeRobot", store.num_episodes, unit="episodes", done=done) as progress:
        number = len(finished)
        while done < store.num_episodes:
            part = Part(staging, number, store, columns, rate, success_known, keep_fps=fps is not None)
            with part:
                done = part.write(done, progress)
            number += 1
    _write_meta(store, staging, columns, rate, success_known)
    return notes + _notes(store, staging, columns, success_known)


def _finished_parts(staging: Path) -> list[tuple[Path, int]]:
    """(file of episodes, how many) of each part that is whole."""
    _, parquet = libraries()
    found = []
    for number in range(FILES_A_CHUNK * FILES_A_CHUNK):
        path = staging / episode_files(number)[0]
        if not path.is_file():
            break
        found.append((path, int(parquet.read_metadata(path).num_rows)))
    return found


def _rate(store: EpisodeStore, fps: float | None, notes: list[str]) -> Fraction:
    known = {metadata["fps"] for metadata in store.metadata if isinstance(metadata.get("fps"), int | float)}
    if fps is None and len(known) == 1:
        fps = float(known.pop())
    elif fps is None:
        why = "differs between episodes" if known else "is not known"
        notes.append(f"the frame rate {why}: written as {DEFAULT_FPS} frames a second (say --fps)")
        fps = DEFAULT_FPS
    if not (np.isfinite(fps) and 0 < fps <= 100_000):
        raise RequestError(f"fps: found {fps}, expected a positive number of frames a second")
    return Fraction(fps).limit_denominator(1001)


def _robot(store: EpisodeStore) -> str | None:
    """What the episodes' metadata says, if it is one robot."""
    robots = {str(metadata.get("robot_type") or "") for metadata in store.metadata}
    return robots.pop() or None if len(robots) == 1 else None


def _write_meta(store: EpisodeStore, root: Path, columns: list[Column], rate: Fraction, success_known: bool) -> None:
    pyarrow, parquet = libraries()
    texts = store.instructions
    # What pandas writes for a frame whose index is the text: the lerobot package reads it with pandas.
    pandas = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [
            {"name": "task_index", "field_name": "task_index", "pandas_type": "int64", "numpy_type": "int64"},
            {"name": None, "field_name": "__index_level_0__", "pandas_type": "unicode", "numpy_type": "object"},
        ],
        "pandas_version": "2.0.0",
    }
    tasks = pyarrow.table({"task_index": np.arange(len(texts)), "__index_level_0__": pyarrow.array(texts)})
    parquet.write_table(tasks.replace_schema_metadata({"pandas": json.dumps(pandas)}), root / TASKS)
    total = statistics.Total()
    for path, _ in _finished_parts(root):
        for episode in _episode_statistics(path):
            total.add(episode)
    write_atomic(root / STATS, json.dumps(total.to_json(), indent=4))
    features = {column.key: column.describe() for column in columns}
    for column in columns:
        if column.kind == "video":
            features[column.key]["info"] = _video_info(column, rate)
    films = any(column.kind == "video" for column in columns)
    info = {
        "codebase_version": VERSION,
        "robot_type": _robot(store),
        "total_episodes": store.num_episodes,
        "total_frames": store.num_steps,
        "total_tasks": len(texts),
        "chunks_size": FILES_A_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": int(rate) if rate.denominator == 1 else float(rate),
        "splits": {"train": f"0:{store.num_episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH if films else None,
        "features": {**features, **scalar_features(success_known)},
    }
    extras = {
        "fields": {
            column.field: {
                "feature": column.key,
                "shape": list(store.schema.fields[column.field].shape),
                "channels_last": column.channels_last,
            }
            for column in columns
            if column.field != "action"
        },
        "action_space": store.schema.action_space,
        "action_shape": list(store.schema.space.shape),
        "env": store.schema.env,
    }
    write_atomic(root / EXTRAS, json.dumps({**extras, "crc32": checksum(extras)}, indent=2))
    write_atomic(root / INFO, json.dumps(info, indent=4, ensure_ascii=False))


def _episode_statistics(path: Path) -> Iterator[statistics.Statistics]:
    _, parquet = libraries()
    file = parquet.ParquetFile(path)
    names = [name for name in file.schema_arrow.names if name.startswith("stats/")]
    for batch in file.iter_batches(batch_size=64, columns=names):
        for row in batch.to_pylist():
            episode: statistics.Statistics = {}
            for name in names:
                _, key, statistic = name.split("/")
                episode.setdefault(key, {})[statistic] = np.array(row[name])
            yield episode


def _video_info(column: Column, rate: Fraction) -> dict[str, Any]:
    return {
        "video.height": column.shape[0],
        "video.width": column.shape[1],
        "video.codec": "av1" if CODEC == "libsvtav1" else CODEC,
        "video.pix_fmt": "yuv420p",
        "video.is_depth_map": False,
        "video.fps": int(rate) if rate.denominator == 1 else float(rate),
        "video.channels": 3,
        "has_audio": False,
    }


def _notes(store: EpisodeStore, root: Path, columns: list[Column], success_known: bool) -> list[str]:
    notes = []
    unknown = int((store.success < 0).sum())
    if unknown and success_known:
        notes.append(f"{unknown} episodes do not say whether they succeeded: next.success is false in them")
    for column in columns:
        if column.kind == "video":
            quality = _film_quality(store, root, column)
            notes.append(f"field '{column.field}': the film is not exact: PSNR {quality:.1f} dB")
        elif column.kind == "image":
            notes.append(f"field '{column.field}': written as PNG, exact")
    notes.append("the observation after each last action is in meta/qseq_episodes: the lerobot package does not see it")
    return notes


def _film_quality(store: EpisodeStore, root: Path, column: Column) -> float:
    """PSNR over the first episodes of the first film, at most `_FRAMES_FOR_PSNR` frames of each."""
    _, parquet = libraries()
    path, rows = _finished_parts(root)[0]
    count = min(rows, _EPISODES_FOR_PSNR)
    starts = parquet.read_table(path, columns=[f"videos/{column.key}/from_timestamp"])[0].to_pylist()[:count]
    fps = json.loads((root / INFO).read_text())["fps"]
    film = FilmReader(root / VIDEO_PATH.format(video_key=column.key, chunk_index=0, file_index=0), column.shape)
    error, size = 0.0, 0
    for episode, start in enumerate(starts):
        frames = np.asarray(store.columns[column.field][store.rows(column.field, episode)])[:-1][:_FRAMES_FOR_PSNR]
        found = film.take(start + np.arange(len(frames)) / fps, 0.25 / fps)[0]
        error += sum(map(squared_error, found, column.pictures(frames)))
        size += found.size
    film.close()
    return decibels(error / size)
