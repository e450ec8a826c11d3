"""What an HDF5 file from a stranger may not do: lead to other files, hide objects, claim sizes it does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qseq.errors import DataError, RequestError

# Deflate, the strongest of the filters in use, cannot shrink below 1/1032.
_MOST_EXPANSION = 1100
_ALWAYS_ALLOWED = 2**20
_MOST_BYTES = 64 * 2**30


def open_hdf5(path: Path, extra: str) -> Any:
    """Open for reading.

    Raises:
        RequestError: h5py is missing, or there is no such file.
        DataError: not an HDF5 file.
    """
    try:
        import h5py
    except ImportError as error:
        raise RequestError(f'reading {path} needs h5py: pip install "qseq[{extra}]"') from error
    if not path.is_file():
        raise RequestError(f"{path}: found no such file, expected an HDF5 file")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path} is damaged or is not an HDF5 file ({_line(error)})") from error


def check_hdf5(path: Path) -> None:
    """Look at every object of a file without reading its data.

    Raises:
        DataError: a link or data set that reads other files, references or objects instead of numbers and text, or a
            data set whose claimed size its stored bytes cannot fill.
    """
    with open_hdf5(path, "minari") as file:
        try:
            _check_group(file, str(path))
        except (RuntimeError, KeyError, OSError, TypeError, ValueError) as error:
            raise DataError(f"{path} is damaged: {_line(error)}") from error


def _check_group(group: Any, where: str) -> None:
    import h5py

    pending = [group]
    seen: set[Any] = set()
    while pending:
        current = pending.pop()
        for name in current:
            link = current.get(name, getlink=True)
            place = f"{where}, {current.name.rstrip('/')}/{name}"
            if not isinstance(link, h5py.HardLink):
                raise DataError(f"{place}: found a {type(link).__name__}, expected data in the file itself")
            item = current[name]
            if isinstance(item, h5py.Group):
                if item.id in seen:
                    raise DataError(f"{place}: found a group that contains itself")
                seen.add(item.id)
                pending.append(item)
            elif isinstance(item, h5py.Dataset):
                check_dataset(item, place)


def check_dataset(item: Any, where: str) -> None:
    """Raises DataError unless the data set holds numbers or text of a size its stored bytes can fill."""
    import h5py

    if item.external or item.is_virtual:
        raise DataError(f"{where}: found data kept in another file, expected it in the file itself")
    text = h5py.check_string_dtype(item.dtype) is not None
    if item.dtype.kind not in "fiubSU" and not text:
        base = h5py.check_vlen_dtype(item.dtype)
        if base is None or np.dtype(base).kind not in "fiub":
            raise DataError(f"{where}: found {item.dtype} ({_kind(item)}), expected numbers or text")
    size = int(np.prod(item.shape or (), dtype=object)) * item.dtype.itemsize
    stored = item.id.get_storage_size()
    if size > _MOST_BYTES or size > _ALWAYS_ALLOWED + _MOST_EXPANSION * stored:
        raise DataError(
            f"{where}: claims shape {list(item.shape)}, {size} bytes, and holds {stored}: it is not what it says"
        )


def _kind(item: Any) -> str:
    import h5py

    return "references" if h5py.check_ref_dtype(item.dtype) else f"kind '{item.dtype.kind}'"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
