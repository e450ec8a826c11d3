"""Files are whole or not there, also when the disk is full."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from qseq.errors import RequestError
from qseq.files import free_space_error, replace_folder, sha256, write_atomic


def full(*arguments: Any, **settings: Any) -> NoReturn:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_write_atomic_replaces_content(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "first ä")
    write_atomic(path, b"second")
    assert path.read_bytes() == b"second"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_write_atomic_makes_ordinary_files(tmp_path: Path) -> None:
    write_atomic(tmp_path / "one", "")
    (tmp_path / "two").write_text("")
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "two").stat().st_mode


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_keeps_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "a.txt"
    write_atomic(path, "old")
    monkeypatch.setattr(os, call, full)
    with pytest.raises(RequestError, match=r"no space left on the disk while writing .*a\.txt .*free some space"):
        write_atomic(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_other_errors_pass_unchanged(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "none" / "a.txt", "x")
    with pytest.raises(ValueError, match="mine"), free_space_error(tmp_path):
        raise ValueError("mine")


def test_full_disk_reported_as_text_only(tmp_path: Path) -> None:
    """safetensors has an error class of its own, without errno."""
    with pytest.raises(RequestError, match="no space left"), free_space_error(tmp_path):
        raise RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)")


def test_replace_folder(tmp_path: Path) -> None:
    final = tmp_path / "final"
    for text in ("first", "second"):
        temporary = tmp_path / ".final.tmp"
        (temporary / "deep").mkdir(parents=True)
        (temporary / "deep" / "file").write_text(text)
        replace_folder(temporary, final)
        assert (final / "deep" / "file").read_text() == text
        assert [item.name for item in tmp_path.iterdir()] == ["final"]


@pytest.mark.parametrize("fails_at", [1, 2])
def test_replace_folder_that_fails_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    final, temporary = tmp_path / "final", tmp_path / ".final.tmp"
    for folder, text in ((final, "old"), (temporary, "new")):
        folder.mkdir()
        (folder / "file").write_text(text)
    calls = 0
    rename = Path.rename

    def failing(self: Path, target: Path) -> Path:
        nonlocal calls
        calls += 1
        return full() if calls == fails_at else rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(RequestError, match="no space left"):
        replace_folder(temporary, final)
    assert (final / "file").read_text() == "old"


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
