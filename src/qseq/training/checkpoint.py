"""Checkpoints: folders that are whole or not there, whose every byte is checked before it is used.

checkpoints/step_00003000/   model.safetensors, policy.json, ..., trainer.json (with the sha256 of all the others)
checkpoints/latest           a text file that names the newest
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qseq.errors import DataError, RequestError
from qseq.files import free_space_error, make_ordinary, replace_folder, sha256, write_atomic

RECORD = "trainer.json"


def checkpoint_name(step: int) -> str:
    """step_00003000 for step 3000."""
    return f"step_{step:08d}"


def write_checkpoint(
    checkpoints: Path, step: int, fill: Callable[[Path], None], record: Mapping[str, Any], *, keep: int
) -> Path:
    """Let `fill` write into a folder beside, add `record` as trainer.json, make it `latest`, and drop the oldest.

    Raises:
        RequestError: the disk is full; the checkpoints that were there are intact and nothing half-written is left.
    """
    final = checkpoints / checkpoint_name(step)
    temporary = checkpoints / f".{final.name}.tmp"
    remove_leftovers(checkpoints)
    try:
        with free_space_error(final):
            temporary.mkdir(parents=True)
            fill(temporary)
            for path in _files(temporary):
                make_ordinary(path)  # safetensors makes its files private
            _write_record(temporary, record)
            replace_folder(temporary, final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    write_atomic(checkpoints / "latest", f"{final.name}\n")
    done = [folder for folder in _folders(checkpoints) if folder.name <= final.name]
    for old in done[:-keep]:
        # Renamed first: a crash in the middle must not leave a folder that looks like a checkpoint.
        rubbish = old.with_name(f".{old.name}.tmp")
        old.rename(rubbish)
        shutil.rmtree(rubbish, ignore_errors=True)
    return final


def latest_checkpoint(run: Path) -> Path:
    """The checkpoint that `run`/checkpoints/latest names.

    Raises:
        RequestError: the run has none.
        DataError: the one it names is missing.
    """
    checkpoints = Path(run) / "checkpoints"
    pointer = checkpoints / "latest"
    if not pointer.is_file():
        raise RequestError(f"{run}: no checkpoint found (there is no {pointer}); train it first")
    folder = checkpoints / pointer.read_text(encoding="utf-8", errors="replace").strip()
    if folder.parent != checkpoints or not folder.name.startswith("step_"):
        raise DataError(
            f"{pointer}: found '{folder.name[:80]}', expected the name of a checkpoint, such as step_00003000"
        )
    if not folder.is_dir():
        others = ", ".join(other.name for other in _folders(checkpoints)) or "none"
        raise DataError(
            f"{pointer} names {folder.name}, which is missing; checkpoints found: {others}; "
            "restore it, or write the name of another into that file"
        )
    return folder


def read_record(folder: Path) -> dict[str, Any]:
    """The trainer.json of a checkpoint, after checking the size and the sha256 of every file of it.

    Raises:
        DataError: a file is missing, truncated or altered.
    """
    path = Path(folder) / RECORD
    try:
        text = path.read_text(encoding="utf-8")
        record = json.loads(text)
        files, expected = record["files"], record.pop("digest")
    except FileNotFoundError:
        raise DataError(f"{path} is missing: {folder} is no whole checkpoint; use another one") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DataError(f"{path}: damaged: not the JSON that was written; use another checkpoint") from None
    if (found := _digest(record)) != expected:
        raise DataError(f"{path}: damaged: found digest {found}, expected {expected}; use another checkpoint")
    for name, about in files.items():
        _verify(Path(folder) / name, about["bytes"], about["sha256"])
    return dict(record)


def remove_leftovers(checkpoints: Path) -> None:
    """Delete what a killed process left half-written."""
    for path in checkpoints.glob(".*.tmp"):
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _write_record(folder: Path, record: Mapping[str, Any]) -> None:
    files = {
        path.relative_to(folder).as_posix(): {"bytes": path.stat().st_size, "sha256": sha256(path)}
        for path in _files(folder)
    }
    whole: dict[str, Any] = {**record, "files": files}
    whole["digest"] = _digest(whole)
    (folder / RECORD).write_text(json.dumps(whole, indent=1), encoding="utf-8")


def _digest(record: Mapping[str, Any]) -> str:
    """trainer.json cannot hold the checksum of itself; it holds that of all its other content."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _verify(path: Path, size: int, digest: str) -> None:
    if not path.is_file():
        raise DataError(f"{path} is missing; expected {size} bytes; use another checkpoint")
    if (found := path.stat().st_size) != size:
        raise DataError(f"{path}: damaged: found {found} bytes, expected {size}; use another checkpoint")
    if (found_digest := sha256(path)) != digest:
        raise DataError(f"{path}: damaged: found sha256 {found_digest}, expected {digest}; use another checkpoint")


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _folders(checkpoints: Path) -> list[Path]:
    return sorted(path for path in checkpoints.glob("step_*") if path.is_dir())
