"""LeRobotDataset v3 read: one episode at a time, in order; see `lerobot_layout` for the files.

A LeRobot episode has T frames and nothing after its last action. Where qseq wrote the data set, the last observation
stands beside it and the episode comes back exactly. Elsewhere the last observation is repeated: all T actions and
rewards are kept, and the episode's metadata says so (`final_observation: "repeated"`). An episode that terminated
never asks for its last observation; of others the value beyond the end is that of one step earlier.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.episode import Episode, JsonScalar, check_finite
from qseq.episodes.formats.base import FINAL_OBSERVATION, Losses
from qseq.episodes.formats.images import decode_image
from qseq.episodes.formats.lerobot_extras import Extras
from qseq.episodes.formats.lerobot_index import EpisodeIndex, Place, read_index, read_tasks
from qseq.episodes.formats.lerobot_layout import (
    ACTION,
    BOOK_KEEPING,
    DONE,
    IMAGES,
    MOST_EPISODE_BYTES,
    OBSERVATION,
    REWARD,
    SUCCESS,
    TRUNCATED,
    Feature,
    libraries,
    path_of,
    read_info,
)
from qseq.episodes.formats.parquet import ParquetRows, numbers
from qseq.episodes.formats.video import FilmReader
from qseq.errors import DataError

_TIME_TOLERANCE = 0.25  # of the time between two frames


class LeRobotReader:
    """An `EpisodeReader` of a LeRobotDataset v3.

    Raises:
        RequestError: pyarrow, PyAV or Pillow is missing, or the data set has an older version.
        DataError: not a data set, or its description is not as it must be.
    """

    def __init__(self, root: Path) -> None:
        libraries()
        self.name = root.name
        self.losses = Losses()
        self._root = root
        self._info = read_info(root)
        self._index: EpisodeIndex = read_index(root, self._info)
        self._tasks = read_tasks(root)
        self._extras = Extras.read(root)
        features = self._info.features
        self._cameras = {key: feature for key, feature in features.items() if feature.kind != "numbers"}
        self._fields = self._extras.fields or _field_names(features)
        self._check()
        self.num_episodes = len(self._index)
        self.action_space = self._extras.action_space or _open_space(features[ACTION])
        self.env = self._extras.env
        self.dimension_names = {
            name: names
            for name, key in {**self._fields, "action": ACTION}.items()
            if (names := features[key].names) is not None
        }
        kept = {*self._fields.values(), ACTION, REWARD, DONE, TRUNCATED, SUCCESS, *BOOK_KEEPING}
        self._lost = [key for key in [*features, *self._info.other] if key not in kept]
        self._columns = [
            key for key, feature in features.items() if key in kept and feature.kind != "video" and key != "index"
        ]
        self._rows: ParquetRows | None = None
        self._films: dict[str, FilmReader] = {}

    def episodes(self, first: int = 0) -> Iterator[Episode]:
        for key in self._lost:
            self.losses.name("features not kept", key)
        for key in self._fields.values():
            if self._info.features[key].dtype == "float64":
                self.losses.name("features in float64 are kept as float32", key)
        try:
            for position in range(first, self.num_episodes):
                yield self._episode(self._index.place(position))
        finally:
            if self._rows is not None:
                self._rows.close()
                self._rows = None
            for film in self._films.values():
                film.close()
            self._films = {}

    def _episode(self, place: Place) -> Episode:
        where = f"{self._root}, episode {place.episode}"
        size = sum(self._info.features[key].row_bytes for key in self._fields.values())
        if place.length < 1 or place.length * max(size, 1) > MOST_EPISODE_BYTES:
            raise DataError(
                f"{where}: found {place.length} frames of {size} bytes, "
                f"expected at least 1 and no more than {MOST_EPISODE_BYTES} bytes in all"
            )
        table = self._read(place)
        self._check_place(table, place, where)
        extra = self._extras.episode(place.episode, place.length)
        times = self._numbers(table, "timestamp", where)
        check_finite(where, "timestamp", times)
        metadata = dict(extra.metadata) if extra else self._timing(times)
        frames = {key: self._frames(table, key, place, times, where) for key in self._fields.values()}
        if extra is None:
            metadata[FINAL_OBSERVATION] = "repeated"
            self.losses.count("{} episodes have no observation after their last action: the last one stands there")
        observations = {}
        for name, key in self._fields.items():
            last = frames[key][-1] if extra is None else extra.final(key, self._info.features[key], where)
            values = np.concatenate([frames[key], np.asarray(last, frames[key].dtype)[None]])
            observations[name] = self._extras.shaped(name, values, self._cameras.get(key))
        terminated, truncated = self._ends(table, where)
        success = self._success(table, where)
        if extra is not None:
            terminated, truncated, success = extra.terminated, extra.truncated, extra.success
        return Episode(
            observations=observations,
            actions=self._actions(table, where),
            rewards=self._rewards(table, success, where),
            terminated=terminated,
            truncated=truncated,
            success=success,
            instruction=self._instruction(table, where),
            metadata=metadata,
        )

    def _read(self, place: Place) -> Any:
        path = path_of(self._root, self._info.data_path, chunk_index=place.data_chunk, file_index=place.data_file)
        if self._rows is None or self._rows.path != path:
            if self._rows is not None:
                self._rows.close()
            self._rows = ParquetRows(path, self._columns)
        return self._rows.read(place.first_row, place.length)

    def _check_place(self, table: Any, place: Place, where: str) -> None:
        """The rows must be those of this episode, in order."""
        episodes = self._numbers(table, "episode_index", where)
        order = self._numbers(table, "frame_index", where)
        wrong = np.flatnonzero((episodes != place.episode) | (order != np.arange(place.length)))
        if len(wrong):
            row = int(wrong[0])
            raise DataError(
                f"{where}, frame {row}: found episode_index {episodes[row]}, frame_index {order[row]}, "
                f"expected {place.episode}, {row}"
            )

    def _numbers(self, table: Any, key: str, where: str) -> np.ndarray:
        feature = self._info.features.get(key)
        if feature is not None and key not in BOOK_KEEPING:
            return numbers(table, key, feature.shape, feature.dtype, where)
        return numbers(table, key, (), BOOK_KEEPING[key], where)

    def _frames(self, table: Any, key: str, place: Place, times: np.ndarray, where: str) -> np.ndarray:
        """One feature of all frames: [T, *shape], pictures as [T, height, width, channels]."""
        feature = self._info.features[key]
        if feature.kind == "numbers":
            return self._numbers(table, key, where)
        if feature.kind == "image":
            shape = (feature.shape[0], feature.shape[1], feature.shape[2])
            pictures = [
                decode_image(_content(cell.as_py(), where, key), shape, f"{where}: field '{key}', frame {row}")
                for row, cell in enumerate(table.column(key))
            ]
            return np.stack(pictures)
        chunk, file, start = place.videos[key]
        path = path_of(self._root, self._info.video_path, video_key=key, chunk_index=chunk, file_index=file)
        film = self._films.get(key)
        if film is None or film.path != path:
            if film is not None:
                film.close()
            film = self._films[key] = FilmReader(path, feature.shape)
        frames, missing = film.take(start + times.astype(np.float64), _TIME_TOLERANCE / self._info.fps)
        self.losses.count("{} frames are missing in the films: the nearest ones stand there", missing)
        return frames

    def _timing(self, times: np.ndarray) -> dict[str, JsonScalar]:
        """The frame rate, how many frames a gap in the time stamps says were dropped, and the robot."""
        gaps = np.diff(times.astype(np.float64)) * self._info.fps
        dropped = int(np.maximum(np.rint(gaps) - 1, 0).sum())
        metadata: dict[str, JsonScalar] = {
            "fps": int(self._info.fps) if self._info.fps.is_integer() else self._info.fps
        }
        if dropped:
            metadata["dropped_frames"] = dropped
        if self._info.robot_type is not None:
            metadata["robot_type"] = self._info.robot_type
        return metadata

    def _actions(self, table: Any, where: str) -> np.ndarray:
        actions = self._numbers(table, ACTION, where)
        if self._extras.action_shape is not None:
            return actions.reshape(len(actions), *self._extras.action_shape)
        return actions

    def _rewards(self, table: Any, success: bool | None, where: str) -> np.ndarray:
        if REWARD in self._columns:
            return self._numbers(table, REWARD, where).reshape(-1).astype(np.float32)
        self.losses.count("{} episodes have no rewards: 1 on the last step of a known success, else 0")
        rewards = np.zeros(table.num_rows, np.float32)
        rewards[-1] = success is True
        return rewards

    def _ends(self, table: Any, where: str) -> tuple[bool, bool]:
        if DONE not in self._columns:
            self.losses.count("{} episodes do not say how they ended: neither terminated nor truncated")
            return False, False
        done = bool(self._numbers(table, DONE, where).reshape(-1)[-1])
        if TRUNCATED not in self._columns:
            self.losses.count("{} episodes are done and do not say whether by a time limit: kept as terminated", done)
            return done, False
        truncated = bool(self._numbers(table, TRUNCATED, where).reshape(-1)[-1])
        return done and not truncated, truncated

    def _success(self, table: Any, where: str) -> bool | None:
        if SUCCESS not in self._columns:
            return None
        return bool(np.any(self._numbers(table, SUCCESS, where) > 0))

    def _instruction(self, table: Any, where: str) -> str:
        indices = self._numbers(table, "task_index", where)
        self.losses.count("{} episodes change their task on the way: the first one was kept", len(set(indices)) > 1)
        task = self._tasks.get(int(indices[0]))
        if task is None:
            raise DataError(f"{where}: found task_index {indices[0]}, expected one of the {len(self._tasks)} tasks")
        return task

    def _check(self) -> None:
        features = self._info.features
        if ACTION not in features or features[ACTION].kind != "numbers":
            raise DataError(f"{self._root}: found no feature '{ACTION}' of numbers, expected one")
        if not self._fields:
            raise DataError(f"{self._root}: found no feature '{OBSERVATION}...', expected at least one")
        for name, key in self._fields.items():
            if key not in features:
                raise DataError(f"{self._root}: field '{name}': found no feature '{key}' in meta/info.json")
        for key, feature in self._cameras.items():
            if feature.kind == "video" and key not in self._index.videos:
                raise DataError(f"{self._root}: found no place of the film '{key}' in meta/episodes")


def _content(cell: Any, where: str, key: str) -> bytes:
    content = cell.get("bytes") if isinstance(cell, dict) else None
    if not isinstance(content, bytes):
        raise DataError(f"{where}: field '{key}': found no picture in the Parquet file, expected its bytes")
    return content


def _field_names(features: dict[str, Feature]) -> dict[str, str]:
    """Field name -> feature: "observation.images.front" is "front", "observation.state" is "state"."""
    names: dict[str, str] = {}
    for key in features:
        if key.startswith(OBSERVATION):
            short = key.removeprefix(IMAGES).removeprefix(OBSERVATION)
            names[short if short and short not in names and short not in ("action", "reward") else key] = key
    return names


def _open_space(action: Feature) -> dict[str, Any]:
    """LeRobot keeps no bounds: training takes them from the actions themselves."""
    dtype = np.dtype(action.dtype)
    name = dtype.name if dtype.kind == "f" else "float32"
    return {"type": "box", "low": "-inf", "high": "inf", "shape": list(action.shape), "dtype": name}
