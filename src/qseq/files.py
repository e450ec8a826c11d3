"""Files that are either whole or not there: atomic writes, folders replaced in one rename, checksums."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from qseq.errors import RequestError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
# safetensors reports a full disk as text only: its own error class carries no errno.
_FULL_DISK_TEXT = ("No space left on device", "Disk quota exceeded", "os error 28", "os error 122")


def is_full_disk(error: BaseException) -> bool:
    """Whether `error` means that the disk (or the user's quota on it) is full."""
    if isinstance(error, OSError) and error.errno in _FULL_DISK:
        return True
    return any(text in str(error) for text in _FULL_DISK_TEXT)


@contextmanager
def free_space_error(path: Path) -> Iterator[None]:
    """Turn "disk full" raised inside the block into a RequestError that names `path`; other errors pass unchanged.

    Raises:
        RequestError: the disk that holds `path` is full.
    """
    try:
        yield
    except RequestError:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise RequestError(
            f"no space left on the disk while writing {path} ({_free_space(path)} free); "
            "what was written before is intact: free some space or choose another folder, then run again"
        ) from error


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write `data` to `path` so that a reader, or a crash at any moment, sees the old content or the new one.

    Raises:
        RequestError: the disk is full; the old content is intact.
        OSError: `path` cannot be written for another reason.
    """
    path = Path(path)
    content = data.encode("utf-8") if isinstance(data, str) else data
    with free_space_error(path):
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            make_ordinary(temporary)  # mkstemp makes files private
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def replace_folder(temporary: Path, final: Path) -> None:
    """Make everything in `temporary` durable, then rename it to `final`, in place of a `final` that is there.

    Both must lie on one file system, so write `temporary` beside `final`.

    Raises:
        RequestError: the disk is full; `final` is as it was.
        OSError: a file cannot be synced or renamed.
    """
    temporary, final = Path(temporary), Path(final)
    with free_space_error(final):
        for folder, _, names in os.walk(temporary):
            for name in names:
                _sync(Path(folder) / name)
            sync_folder(Path(folder))
        # A directory can only be renamed onto an empty one, so an old one steps aside first.
        aside = final.with_name(f".{final.name}.old.tmp")
        shutil.rmtree(aside, ignore_errors=True)
        replaced = final.exists()
        if replaced:
            final.rename(aside)
        try:
            temporary.rename(final)
        except BaseException:
            if replaced:
                aside.rename(final)
            raise
        sync_folder(final.parent)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def new_folder(final: Path) -> Iterator[Path]:
    """A folder beside `final` to be filled; when the block ends it becomes `final`, when it fails it is gone.

    Raises:
        RequestError: `final` is a file or holds something, or the disk is full.
    """
    final = Path(final)
    if final.exists() and (not final.is_dir() or any(final.iterdir())):
        raise RequestError(f"{final}: exists already; choose another folder")
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        with free_space_error(final):
            temporary.mkdir(parents=True)
            yield temporary
            replace_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def make_ordinary(path: Path) -> None:
    """Give a file the permissions that `open` would have given it: some libraries make theirs private."""
    path.chmod(0o666 & ~_umask())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable, so that a rename survives a power cut."""
    _sync(folder)


def sync_file(path: Path) -> None:
    """Return once what was written to a file is on the disk."""
    _sync(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _umask() -> int:
    # There is no way to read the mask without setting it.
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _free_space(path: Path) -> str:
    folder = next((parent for parent in (path, *path.absolute().parents) if parent.is_dir()), Path("/"))
    try:
        return f"{shutil.disk_usage(folder).free / 2**20:.0f} MiB"
    except OSError:
        return "an unknown amount"
