"""Durable appends: what a crash or a full disk may not undo or leave half done."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from qseq.errors import RequestError
from qseq.files import is_full_disk


def write(file: IO[bytes], data: bytes | memoryview) -> None:
    """Append `data` to an unbuffered file; a signal may cut a single write short, so repeat until all is there."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[file.write(view) :]


def synchronise(file: IO[bytes]) -> None:
    """Return once the file's bytes are on the disk."""
    os.fsync(file.fileno())


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a RequestError of one line: a full disk is not a defect of the program."""
    try:
        yield
    except OSError as error:
        if is_full_disk(error):
            raise RequestError(f"{path}: no space left on the disk; free some and run the command again") from error
        raise RequestError(f"{path}: cannot be written: {error.strerror or error}") from error


def hold_lock(file: Path, what: str, *, wait: bool = False) -> IO[bytes]:
    """Hold a lock until the returned file is closed; the system lets go of it when the process ends, however it ends.

    Raises:
        RequestError: another process holds it, and `wait` is False.
    """
    import fcntl

    handle = file.open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        handle.close()
        raise RequestError(f"{what}: another process is writing to it; wait until it has finished") from error
    return handle
