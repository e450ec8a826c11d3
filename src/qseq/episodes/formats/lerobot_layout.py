"""The files of a LeRobotDataset v3: what they are called, what info.json says, which values are taken from strangers.

    meta/info.json                                   rate, features, counts, path templates
    meta/stats.json, meta/tasks.parquet              statistics; task text (its index) -> task_index
    meta/episodes/chunk-000/file-000.parquet         one row an episode: where its rows and frames lie
    data/chunk-000/file-000.parquet                  one row a frame
    videos/FEATURE/chunk-000/file-000.mp4            the frames of many episodes, one after the other

An episode of LeRobot has as many frames as actions: nothing is seen after the last one. What a store knows beyond that
(the last observation, whether success is unknown, metadata, exact names and shapes) is written beside it, where the
`lerobot` package does not look:

    meta/qseq.json                                   action space, environment, field name -> feature
    meta/qseq_episodes/chunk-000/file-000.parquet    one row an episode
"""

from __future__ import annotations

import json
import re
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from qseq.errors import DataError, RequestError

VERSION = "v3.0"
INFO = "meta/info.json"
STATS = "meta/stats.json"
TASKS = "meta/tasks.parquet"
EXTRAS = "meta/qseq.json"
EPISODES_FOLDER = "meta/episodes"
EXTRA_EPISODES_FOLDER = "meta/qseq_episodes"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FILES_A_CHUNK = 1000

ACTION, REWARD, DONE, TRUNCATED, SUCCESS = "action", "next.reward", "next.done", "next.truncated", "next.success"
OBSERVATION = "observation."
IMAGES = "observation.images."
# Every data set has these; they are LeRobot's own book-keeping.
BOOK_KEEPING = {
    "timestamp": "float32",
    "frame_index": "int64",
    "episode_index": "int64",
    "index": "int64",
    "task_index": "int64",
}
MOST_EPISODE_BYTES = 8 * 2**30
"""A recording that claims to be larger is refused: the claim is checked before memory is asked for."""

_PLACEHOLDER = re.compile(r"\{(\w+)(?::0?(\d))?(?:d)?\}")


@dataclass(frozen=True)
class Feature:
    """One feature of info.json; `kind` is "video", "image" or "numbers". Pictures: (height, width, channels)."""

    key: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    names: list[str] | None = None

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=object)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Info:
    """The parts of info.json that reading needs; features that hold no numbers are named in `other`."""

    fps: float
    features: dict[str, Feature]
    other: list[str]
    num_episodes: int
    num_frames: int
    data_path: str
    video_path: str
    robot_type: str | None


def libraries() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Raises:
        RequestError: a library of the extra is not installed.
    """
    try:
        import av  # noqa: F401 (asked for now rather than at the first frame)
        import PIL  # noqa: F401
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise RequestError(
            f'reading and writing LeRobot data sets needs {error.name}: pip install "qseq[lerobot]"'
        ) from error
    return pyarrow, pyarrow.parquet


def read_json(path: Path) -> dict[str, Any]:
    """Raises DataError where `path` is missing or is not a JSON object."""
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise DataError(f"{path} is missing: expected a file of a LeRobot data set {VERSION}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged: it cannot be read as JSON ({error})") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: found a {type(value).__name__}, expected a JSON object")
    return value


def checksum(body: dict[str, Any]) -> int:
    """Over what a JSON object says, however it is laid out."""
    return zlib.crc32(json.dumps(body, sort_keys=True).encode())


def read_info(root: Path) -> Info:
    """Read and check meta/info.json.

    Raises:
        RequestError: the data set has another version.
        DataError: not a LeRobot data set, or the file is not as it must be.
    """
    path = root / INFO
    if not path.is_file():
        raise DataError(f"{root} is not a LeRobot data set: found no {INFO} in it")
    body = read_json(path)
    version = str(body.get("codebase_version"))
    if not re.fullmatch(r"v?3(\.\d+)*", version):
        raise RequestError(
            f"{path}: found codebase_version {version}, expected {VERSION}; the lerobot package converts older ones "
            "(python -m lerobot.datasets.v30.convert_dataset_v21_to_v30)"
        )
    try:
        parsed = [_feature(key, spec) for key, spec in body["features"].items()]
        info = Info(
            fps=float(body["fps"]),
            features={feature.key: feature for feature in parsed if feature is not None},
            other=[key for key, feature in zip(body["features"], parsed, strict=True) if feature is None],
            num_episodes=int(body["total_episodes"]),
            num_frames=int(body["total_frames"]),
            data_path=str(body.get("data_path") or DATA_PATH),
            video_path=str(body.get("video_path") or VIDEO_PATH),
            robot_type=str(body["robot_type"]) if body.get("robot_type") else None,
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(f"{path}: cannot be read as the description of a data set ({error!r})") from error
    if not (np.isfinite(info.fps) and info.fps > 0):
        raise DataError(f"{path}: fps: found {info.fps}, expected a positive number")
    return info


def path_of(root: Path, template: str, **values: str | int) -> Path:
    """The file a path template names; a template or key from a stranger must not lead out of the data set.

    Raises:
        DataError: an absolute path, "..", or a placeholder that is not one of LeRobot's.
    """

    def fill(match: re.Match[str]) -> str:
        name, width = match[1], int(match[2] or 0)
        if name not in values:
            raise DataError(f"{root / INFO}: path {template!r}: found '{{{name}}}', expected one of {sorted(values)}")
        return str(values[name]).rjust(width, "0")

    filled = _PLACEHOLDER.sub(fill, template)
    parts = PurePosixPath(filled).parts
    if not parts or filled.startswith(("/", "~")) or ".." in parts or set("{}\\\0") & set(filled):
        raise DataError(f"{root / INFO}: found path {filled[:200]!r}, expected one below the data set's folder")
    return root.joinpath(*parts)


def _feature(key: str, spec: dict[str, Any]) -> Feature | None:
    """None for what holds no numbers."""
    dtype, shape = str(spec["dtype"]), tuple(int(size) for size in spec["shape"])
    if any(size < 0 for size in shape):
        raise ValueError(f"feature {key!r} has shape {list(shape)}")
    if dtype in ("video", "image"):
        if len(shape) != 3:
            raise ValueError(f"feature {key!r} has shape {list(shape)}, expected [height, width, channels]")
        names = spec.get("names")
        first = names[0] if isinstance(names, list) and names else ""
        # Some data sets of this version still write [channels, height, width].
        if first in ("channel", "channels") or (first != "height" and shape[0] in (1, 3, 4) and shape[2] > 4):
            shape = (*shape[1:], shape[0])
        return Feature(key, dtype, "uint8", shape)
    if dtype in ("string", "language"):
        return None
    if np.dtype(dtype).kind not in "fiub":
        raise ValueError(f"feature {key!r} has dtype {dtype!r}")
    return Feature(key, "numbers", dtype, shape, _names(spec.get("names"), shape))


def _names(names: Any, shape: tuple[int, ...]) -> list[str] | None:
    if isinstance(names, dict):  # such as {"motors": [...]}
        names = next(iter(names.values()), None) if len(names) == 1 else list(names)
    if not isinstance(names, list) or len(shape) != 1 or len(names) != shape[0]:
        return None
    return [str(name) for name in names]
