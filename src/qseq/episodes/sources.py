"""Data by name: "store:DIR" or a bare path, "minari:ID", "minari:/root/ID"."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from qseq.episodes.formats.minari import import_minari, minari_root, write_minari
from qseq.episodes.schema import SCHEMA_FILE
from qseq.episodes.store import EpisodeStore
from qseq.episodes.writer import StoreWriter
from qseq.errors import RequestError
from qseq.files import replace_folder
from qseq.progress import track

_KINDS = "'store:DIR', a bare path, 'minari:ID' or 'minari:/root/ID'"


@dataclass(frozen=True)
class Source:
    """A parsed name: `kind` is "store" or "minari"; `path` is the store's or the data set's own folder.

    Of a Minari data set `path` is `root` / `dataset_id`.
    """

    kind: str
    path: Path
    root: Path = Path()
    dataset_id: str = ""


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

    Raises:
        RequestError: the kind is unknown or the name empty.
    """
    match = re.match(r"([A-Za-z][A-Za-z0-9_+-]+):", text)
    kind, rest = (match[1], text[match.end() :]) if match else ("store", text)
    if kind not in ("store", "minari") or not rest:
        raise RequestError(f"data: found {text!r}, expected {_KINDS}")
    if kind == "store":
        return Source("store", Path(rest).expanduser())
    if rest.startswith(("/", ".", "~")):
        path = Path(rest).expanduser().absolute()
        return Source("minari", path, path.parent, path.name)
    return Source("minari", minari_root() / rest, minari_root(), rest)


def open_source(text: str, *, cache: Path | None = None) -> EpisodeStore:
    """Open a data set by its name; a Minari data set is converted once and then found in the cache.

    Args:
        text: see `parse_source`.
        cache: folder for converted data sets, such as one beside the run; by default $QSEQ_CACHE or ~/.cache/qseq.

    Raises:
        RequestError: unknown kind, nothing there, or minari is not installed.
        DataError: the data are damaged or not valid.
    """
    source = parse_source(text)
    if source.kind == "store":
        return EpisodeStore.open(source.path)
    folder = cache or Path(os.environ.get("QSEQ_CACHE") or Path.home() / ".cache" / "qseq")
    store = folder / f"{source.path.name}-{_fingerprint(source.path)}"
    if not (store / SCHEMA_FILE).is_file():
        _write_aside(store, lambda destination: import_minari(source.path, destination))
    return EpisodeStore.open(store)


def convert(source: str, destination: str) -> Conversion:
    """Copy a data set into another format: Minari to a store, a store to Minari, or a store to a new store.

    The destination must not exist; it is there in full afterwards or not at all.

    Raises:
        RequestError: unknown kinds, the destination exists, or the source does not.
        DataError: the data are damaged or not valid.
    """
    read, write = parse_source(source), parse_source(destination)
    if write.kind == "minari":
        if read.kind == "minari":
            raise RequestError(f"convert: both {source!r} and {destination!r} are Minari data sets; copy the folder")
        store = EpisodeStore.open(read.path)
        return Conversion(store.num_episodes, store.num_steps, write_minari(store, write.dataset_id, write.root))
    if write.path.exists() and not (write.path.is_dir() and not any(write.path.iterdir())):
        raise RequestError(f"{write.path} exists already; choose another path")
    if read.kind == "minari":
        notes = _write_aside(write.path, lambda folder: import_minari(read.path, folder))
    else:
        original = EpisodeStore.open(read.path)
        notes = _write_aside(write.path, lambda folder: _copy(original, folder))
    written = EpisodeStore.open(write.path)
    return Conversion(written.num_episodes, written.num_steps, notes)


def _copy(store: EpisodeStore, folder: Path) -> list[str]:
    with StoreWriter(folder, store.schema, append=False) as writer:
        indices = track(range(store.num_episodes), f"copying {store.path.name}", store.num_episodes, unit="episodes")
        writer.extend(store.episode(index) for index in indices)
    return []


def _write_aside(final: Path, write: Callable[[Path], list[str]]) -> list[str]:
    """Let `write` fill a folder beside `final`, then rename it."""
    final = final.absolute()
    final.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}."))
    try:
        notes = write(staging / "store")
        replace_folder(staging / "store", final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return notes


def _fingerprint(folder: Path) -> str:
    """Changes when the data set does: names, sizes and times of its files, and where it lies."""
    parts = [str(folder.absolute())]
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            parts.append(f"{path.relative_to(folder)} {path.stat().st_size} {path.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
