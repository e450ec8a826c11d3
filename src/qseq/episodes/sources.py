"""Data by name: "store:DIR" or a bare path, "minari:ID", "lerobot:PATH_OR_REPO", "robomimic:FILE"."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from qseq.episodes import disk
from qseq.episodes.codings import ImageCoding
from qseq.episodes.conversion import copy_episodes, staged
from qseq.episodes.formats.base import EpisodeReader
from qseq.episodes.formats.minari import MinariReader, minari_root
from qseq.episodes.formats.minari_writer import write_minari
from qseq.episodes.schema import SCHEMA_FILE
from qseq.episodes.store import EpisodeStore
from qseq.episodes.store_reader import StoreReader
from qseq.errors import RequestError

_KINDS = (
    "'store:DIR', a bare path, 'minari:ID', 'minari:/root/ID', 'lerobot:FOLDER', 'lerobot:NAME/REPOSITORY' "
    "or 'robomimic:FILE'"
)
_WRITABLE = ("store", "minari", "lerobot")


@dataclass(frozen=True)
class Source:
    """A parsed name: `kind` is "store", "minari", "lerobot" or "robomimic"; `path` its own folder or file.

    Of a Minari data set `path` is `root` / `dataset_id`. `repository` is the name of a LeRobot data set on the hub.
    """

    kind: str
    path: Path
    root: Path = Path()
    dataset_id: str = ""
    repository: str = ""


@dataclass(frozen=True)
class Conversion:
    """What `convert` wrote."""

    episodes: int
    steps: int
    notes: list[str] = field(default_factory=list)


def parse_source(text: str) -> Source:
    """Parse the name of a data set.

    "minari:D4RL/door/human-v2" is looked up where Minari keeps its data sets. With a folder ("minari:/data/human-v2";
    a path starts with "/", "." or "~") the last part is the id and what stands before it the root.
    "lerobot:lerobot/pusht" is a folder if there is one of that name, else a repository of the hub.

    Raises:
        RequestError: the kind is unknown or the name empty.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9_+-]+):", text)
    kind, rest = (match[1], text[match.end() :]) if match else ("store", text)
    if kind not in ("store", "minari", "lerobot", "robomimic") or not rest:
        raise RequestError(f"data: found {text!r}, expected {_KINDS}")
    path = Path(rest).expanduser()
    is_path = rest.startswith(("/", ".", "~"))
    if kind == "minari":
        if is_path:
            return Source(kind, path.absolute(), path.absolute().parent, path.name)
        return Source(kind, minari_root() / rest, minari_root(), rest)
    if kind == "lerobot" and not is_path and not path.exists() and re.fullmatch(r"[\w.-]+/[\w.-]+", rest):
        return Source(kind, path, repository=rest)
    return Source(kind, path)


def open_source(text: str, *, cache: Path | None = None) -> EpisodeStore:
    """Open a data set by its name; one in another format is converted once and then found in the cache.

    Args:
        text: see `parse_source`.
        cache: folder for converted data sets, such as one beside the run; by default $QSEQ_CACHE or ~/.cache/qseq.

    Raises:
        RequestError: unknown kind, nothing there, or the library that reads it is not installed.
        DataError: the data are damaged or not valid.
    """
    source = parse_source(text)
    if source.kind == "store":
        return EpisodeStore.open(source.path)
    folder = cache or Path(os.environ.get("QSEQ_CACHE") or Path.home() / ".cache" / "qseq")
    path = _local(source)
    identity = _identity(source.kind, path)
    store = folder / f"{path.name}-{hashlib.sha256(identity['files'].encode()).hexdigest()[:16]}"
    if not (store / SCHEMA_FILE).is_file():
        reader = _reader(source, path)
        folder.mkdir(parents=True, exist_ok=True)
        # Ranks of one training run ask at the same time: one converts, the others wait.
        with disk.hold_lock(folder / f".{store.name}.lock", str(store), wait=True):
            if not (store / SCHEMA_FILE).is_file():
                with staged(store, identity) as content:
                    copy_episodes(reader, content)
    return EpisodeStore.open(store)


def convert(source: str, destination: str, *, fps: float | None = None, images: str | None = None) -> Conversion:
    """Copy a data set into another format.

    The destination must not exist; it is there in full afterwards or not at all. An interrupted copy into a store or a
    LeRobot data set goes on when it is asked for again.

    Args:
        fps: of a LeRobot data set, see `write_lerobot`.
        images: how cameras are kept. In a LeRobot data set "video" (by default) or "png"; in a store "raw" (by
            default), "png", "jpeg" or "jpeg:QUALITY".

    Raises:
        RequestError: unknown kinds, the destination exists, or the source does not.
        DataError: the data are damaged or not valid.
    """
    read, write = parse_source(source), parse_source(destination)
    if write.kind not in _WRITABLE:
        raise RequestError(f"convert: {destination!r}: {write.kind} data can be read only; expected one of {_WRITABLE}")
    if write.kind != "lerobot" and fps is not None:
        raise RequestError("convert: --fps is for LeRobot data sets only")
    if write.kind == "minari" and images is not None:
        raise RequestError("convert: --images is for stores and LeRobot data sets only")
    if write.kind == "store":
        if images is not None:
            ImageCoding.parse(images)
        path = _local(read)
        reader = _reader(read, path)
        with staged(write.path, {**_identity(read.kind, path), "images": images}) as content:
            notes = copy_episodes(reader, content, images)
        written = EpisodeStore.open(write.path)
        if read.kind == "store":
            notes += [f"pictures were compressed a second time: {name}" for name in _compressed_twice(path, written)]
        return Conversion(written.num_episodes, written.num_steps, notes)
    if write.kind == read.kind:
        raise RequestError(f"convert: both {source!r} and {destination!r} are {write.kind} data sets; copy the folder")
    store = open_source(source)
    if write.kind == "minari":
        notes = write_minari(store, write.dataset_id, write.root)
    else:
        from qseq.episodes.formats.lerobot_writer import write_lerobot

        images = images or "video"
        if images not in ("video", "png"):
            raise RequestError(f"convert: --images: found {images!r}, expected 'video' or 'png' of a LeRobot data set")
        identity = {**_identity("store", store.path), "fps": fps, "images": images}
        with staged(write.path, identity) as content:
            notes = write_lerobot(store, content, fps=fps, images=images)
    return Conversion(store.num_episodes, store.num_steps, notes)


def _compressed_twice(source: Path, written: EpisodeStore) -> list[str]:
    """Fields that were JPEG and are again."""
    codings = EpisodeStore.open(source).schema.codings
    again = written.schema.codings.items()
    return [name for name, coding in again if coding.startswith("jpeg") and codings.get(name, "").startswith("jpeg")]


def _reader(source: Source, path: Path) -> EpisodeReader:
    if source.kind == "store":
        return StoreReader(EpisodeStore.open(path))
    if source.kind == "minari":
        return MinariReader(path)
    if source.kind == "lerobot":
        from qseq.episodes.formats.lerobot import LeRobotReader

        return LeRobotReader(path)
    from qseq.episodes.formats.robomimic import RobomimicReader

    return RobomimicReader(path)


def _local(source: Source) -> Path:
    """Where the files are; a LeRobot repository is downloaded into the hub's own cache."""
    if not source.repository:
        return source.path
    from qseq.episodes.formats.lerobot_hub import download

    return download(source.repository)


def _identity(kind: str, path: Path) -> dict[str, Any]:
    """Changes when the data set does: names, sizes and times of its files, and where it lies."""
    parts = [str(path.absolute())]
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            parts.append(f"{file.name if file == path else file.relative_to(path)} {_stamp(file)}")
    return {"kind": kind, "files": "\n".join(parts)}


def _stamp(file: Path) -> str:
    return f"{file.stat().st_size} {file.stat().st_mtime_ns}"
