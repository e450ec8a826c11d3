"""The files of one column while a store is written: raw rows, or compressed pictures with their places."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from qseq.episodes import disk
from qseq.episodes.codings import ImageCoding, checksum, picture_layout
from qseq.episodes.decoding_threads import for_parts
from qseq.episodes.image_column import INDEX_ENTRY
from qseq.episodes.schema import FieldSpec, StoreSchema, column_path, index_path
from qseq.errors import DataError


@dataclass(frozen=True)
class EncodedRows:
    """The rows of one episode as they are written.

    Attributes:
        content: their bytes.
        checksum: crc32 of it.
        index: of pictures, [rows] of `INDEX_ENTRY`, places counted from the first byte of `content`.
    """

    content: memoryview
    checksum: int
    index: np.ndarray | None = None


class ColumnFiles(Protocol):
    """Appends to the files of a column. What is not committed is cut away by `cut_back`."""

    def encode(self, values: np.ndarray) -> EncodedRows:
        """The rows of an episode, C-contiguous in the dtype they are stored in; writes nothing."""
        ...

    def append(self, rows: EncodedRows) -> None: ...

    def synchronise(self) -> None:
        """Return once everything appended is on the disk."""
        ...

    def commit(self) -> None:
        """What was appended stays."""
        ...

    def cut_back(self) -> None:
        """Forget what was appended since the last `commit`."""
        ...

    def close(self) -> None: ...


class RawColumnFiles:
    """Rows one after the other, `num_rows` of them committed.

    Raises:
        DataError: the file is missing or shorter than that.
    """

    def __init__(self, folder: Path, name: str, spec: FieldSpec, num_rows: int) -> None:
        self._file = _AppendedFile(column_path(folder, name), num_rows * spec.row_bytes)

    def encode(self, values: np.ndarray) -> EncodedRows:
        content = memoryview(values.reshape(-1).view(np.uint8).data) if values.size else memoryview(b"")
        return EncodedRows(content, zlib.crc32(content))

    def append(self, rows: EncodedRows) -> None:
        self._file.append(rows.content)

    def synchronise(self) -> None:
        self._file.synchronise()

    def commit(self) -> None:
        self._file.commit()

    def cut_back(self) -> None:
        self._file.cut_back()

    def close(self) -> None:
        self._file.close()


class ImageColumnFiles:
    """Compressed frames and their places, `num_rows` of them committed in `num_bytes`; see `ImageColumn`.

    Raises:
        DataError: a file is missing or shorter than that.
    """

    def __init__(
        self, folder: Path, name: str, spec: FieldSpec, coding: ImageCoding, num_rows: int, num_bytes: int
    ) -> None:
        self._coding = coding
        self._channels_first = picture_layout(spec) == "first"
        self._content = _AppendedFile(column_path(folder, name), num_bytes)
        self._index = _AppendedFile(index_path(folder, name), num_rows * INDEX_ENTRY.itemsize)

    def encode(self, values: np.ndarray) -> EncodedRows:
        frames_NHWC = np.moveaxis(values, 1, -1) if self._channels_first else values
        files: list[bytes] = [b""] * len(frames_NHWC)

        def work(rows: np.ndarray) -> None:
            for row in rows:
                files[row] = self._coding.encode(frames_NHWC[row])

        for_parts(work, np.arange(len(files)))
        index = np.empty(len(files), INDEX_ENTRY)
        index["end"] = np.cumsum([len(file) for file in files])
        index["crc32"] = [checksum(file) for file in files]
        content = b"".join(files)
        return EncodedRows(memoryview(content), zlib.crc32(content), index)

    def append(self, rows: EncodedRows) -> None:
        assert rows.index is not None
        index = rows.index.copy()
        index["end"] += self._content.length
        self._content.append(rows.content)
        self._index.append(memoryview(index.tobytes()))

    def synchronise(self) -> None:
        self._content.synchronise()
        self._index.synchronise()

    def commit(self) -> None:
        self._content.commit()
        self._index.commit()

    def cut_back(self) -> None:
        self._index.cut_back()
        self._content.cut_back()

    def close(self) -> None:
        self._index.close()
        self._content.close()


def open_column_files(
    folder: Path, schema: StoreSchema, *, num_episodes: int, num_steps: int, image_bytes: dict[str, int]
) -> dict[str, ColumnFiles]:
    """The files of all columns; those of a new store are created.

    Args:
        num_episodes, num_steps: committed.
        image_bytes: name -> committed bytes of each column of compressed pictures.

    Raises:
        DataError: a file is shorter than what is committed. OSError: one cannot be opened.
    """
    files: dict[str, ColumnFiles] = {}
    for name, spec in schema.columns.items():
        num_rows = num_steps + num_episodes if name in schema.fields else num_steps
        coding = schema.coding(name)
        if coding is None:
            files[name] = RawColumnFiles(folder, name, spec, num_rows)
        else:
            files[name] = ImageColumnFiles(folder, name, spec, coding, num_rows, image_bytes.get(name, 0))
    return files


class _AppendedFile:
    """A file of which the first `committed` bytes stay. `length` counts those that were appended."""

    def __init__(self, path: Path, committed: int) -> None:
        found = path.stat().st_size if path.is_file() else -1
        if found < committed and (found, committed) != (-1, 0):
            what = "no such file" if found < 0 else f"{found} bytes"
            raise DataError(f"{path} is damaged: found {what}, expected {committed} bytes")
        self._file = path.open("ab", buffering=0)
        self._committed = self.length = committed

    def append(self, data: memoryview) -> None:
        disk.write(self._file, data)
        self.length += data.nbytes

    def synchronise(self) -> None:
        disk.synchronise(self._file)

    def commit(self) -> None:
        self._committed = self.length

    def cut_back(self) -> None:
        self._file.truncate(self._committed)
        self.length = self._committed

    def close(self) -> None:
        self._file.close()
