"""Long copies that a killed process leaves resumable and that nobody sees half done.

The copy grows in a hidden folder beside the destination, with a note of what it is a copy of; the finished one is
renamed. The same command run again goes on from what is there; another source, or a source that changed, begins anew.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qseq.episodes import disk
from qseq.episodes.formats.base import EpisodeReader, Losses
from qseq.episodes.writer import StoreWriter, grouped
from qseq.errors import DataError, RequestError
from qseq.files import is_full_disk, replace_folder, write_atomic
from qseq.progress import Progress

_STATE = "state.json"
_LOCK = "lock"
_CONTENT = "content"


@contextmanager
def staged(final: Path, source: Mapping[str, Any], *, resumable: bool = True) -> Iterator[Path]:
    """A folder to write into that becomes `final` when the block ends well.

    When the block fails the folder is removed; when the process is killed or interrupted, or the disk is full, it
    stays for the next call.

    Args:
        final: must not exist (an empty folder may).
        source: JSON that says what is written; a folder left by another one is not continued.
        resumable: False always begins anew.

    Raises:
        RequestError: `final` exists, or another process is writing it.
    """
    final = final.absolute()
    folder = final.with_name(f".{final.name}.converting")
    if final.exists() and not (final.is_dir() and not any(final.iterdir())):
        if not (folder / _CONTENT).exists():  # killed after the last rename
            shutil.rmtree(folder, ignore_errors=True)
        raise RequestError(f"{final} exists already; choose another path")
    final.parent.mkdir(parents=True, exist_ok=True)
    folder.mkdir(exist_ok=True)
    lock = disk.hold_lock(folder / _LOCK, str(final))
    try:
        identity = hashlib.sha256(json.dumps(source, sort_keys=True).encode()).hexdigest()
        content = folder / _CONTENT
        if not resumable or read_state(folder).get("source") != identity:
            shutil.rmtree(content, ignore_errors=True)
            write_atomic(folder / _STATE, json.dumps({"source": identity}))
        content.mkdir(exist_ok=True)
        yield content
        replace_folder(content, final)
    except Exception as error:
        if not is_full_disk(error.__cause__ or error):
            shutil.rmtree(folder, ignore_errors=True)
        raise
    finally:
        lock.close()
    shutil.rmtree(folder, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    try:
        state = json.loads((folder / _STATE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def copy_episodes(reader: EpisodeReader, content: Path, images: str | None = None) -> list[str]:
    """Write all episodes of `reader` into a store in a staged folder, going on after those that are there.

    Memory holds one group of episodes, whatever the size of the data set. `images` as for a `StoreWriter`.

    Returns:
        What could not be kept, one line each.
    """
    if reader.num_episodes == 0:
        raise DataError(f"{reader.name}: found 0 episodes, expected at least 1")
    state = read_state(content.parent)
    reader.losses = Losses(state.get("losses"))
    counted = int(state.get("episodes", 0))  # the losses of these are known
    store = StoreWriter(
        content,
        action_space=reader.action_space,
        env=reader.env,
        dimension_names=reader.dimension_names,
        images=images,
    )
    with store, Progress(f"reading {reader.name}", reader.num_episodes, unit="episodes", done=counted) as progress:
        for group in grouped(reader.episodes(counted)):
            # A kill between the two writes leaves episodes that are stored and not counted: they are read again.
            store.extend(group[max(0, store.num_episodes - counted) :])
            counted += len(group)
            write_atomic(
                content.parent / _STATE,
                json.dumps({**state, "episodes": counted, "losses": reader.losses.to_json()}),
            )
            progress.advance(len(group))
    return reader.losses.lines()
