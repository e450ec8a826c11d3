"""Durable writes: what a crash or a full disk may not undo or leave half done."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from qseq.errors import RequestError


def write(file: IO[bytes], data: bytes | memoryview) -> None:
    """Append `data` to an unbuffered file; a signal may cut a single write short, so repeat until all is there."""
    view = memoryview(data).cast("B")
    while len(view):
        view = view[file.write(view) :]


def synchronise(file: IO[bytes]) -> None:
    """Return once the file's bytes are on the disk."""
    os.fsync(file.fileno())


def synchronise_folder(folder: Path) -> None:
    """Return once the folder's entries are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, data: bytes) -> None:
    """Write a small file so that it is there in full or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb", buffering=0) as file:
        write(file, data)
        synchronise(file)
    temporary.replace(path)
    synchronise_folder(path.parent)


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Turn an OSError into a RequestError of one line: a full disk is not a defect of the program."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RequestError(f"{path}: no space left on the disk; free some and run the command again") from error
        raise RequestError(f"{path}: cannot be written: {error.strerror or error}") from error
