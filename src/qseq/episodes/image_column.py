"""A column of compressed pictures: every frame is a file of its own, found by its number.

    columns/NAME.bin       the files, one after the other
    columns/NAME.index     one entry a frame: where its file ends, and the crc32 of its bytes

Both are memory-mapped. Rows are read as from an array: `column[rows]`, `column.take(rows, axis=0)` decode these rows,
each once, in a few threads. A frame is checked against its checksum whenever it is read.

Legend: H height, W width, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from qseq.episodes.codings import ImageCoding, checksum, picture_layout
from qseq.episodes.decoding_threads import for_parts
from qseq.episodes.schema import FieldSpec
from qseq.errors import DataError

INDEX_ENTRY = np.dtype([("end", "<u8"), ("crc32", "<u4")])
"""Of a frame: the byte after its last one, and its checksum."""


class ImageColumn:
    """What looks like an array [frames, *shape] of uint8.

    Args:
        content: uint8 [bytes], the files.
        index: [frames] of `INDEX_ENTRY`.
        spec: of one frame.
        coding: of the files.
        where: row -> how messages name it.

    Raises:
        DataError: the first frame has another size than `spec` promises.
    """

    dtype = np.dtype(np.uint8)

    def __init__(
        self,
        content: np.ndarray,
        index: np.ndarray,
        spec: FieldSpec,
        coding: ImageCoding,
        where: Callable[[int], str],
    ) -> None:
        self.shape = (len(index), *spec.shape)
        self.ndim = len(self.shape)
        self.coding = coding
        # The same maps as plain arrays: the memmap class costs time on every call.
        self._content = np.asarray(content)
        self._ends, self._checksums = np.asarray(index)["end"], np.asarray(index)["crc32"]
        self._where = where
        self._channels_first = picture_layout(spec) == "first"
        self._frame_HWC = (*spec.shape[1:], spec.shape[0]) if self._channels_first else spec.shape
        # Memory for rows is asked for by the promised shape: a promise that no file keeps is refused before that.
        if len(index):
            self.check_row(0)

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, rows: Any) -> np.ndarray:
        taken: np.ndarray = self.take(np.arange(len(self))[rows])
        return taken

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """All frames, decoded."""
        return self[:].astype(dtype or np.uint8, copy=False)

    def take(self, rows: np.ndarray, axis: int = 0) -> np.ndarray:
        """Decode frames: int [...] -> uint8 [..., *shape].

        Raises:
            DataError: a frame was changed, or cannot be decoded; names its episode and step.
        """
        rows = np.asarray(rows)
        flat = rows.reshape(-1)
        result = np.empty((len(flat), *self.shape[1:]), np.uint8)
        _, first, same = np.unique(flat, return_index=True, return_inverse=True)
        for_parts(lambda part: self._decode(flat, part, result), first)
        again = np.flatnonzero(first[same] != np.arange(len(flat)))
        if len(again):
            result[again] = result[first[same[again]]]
        return result.reshape(*rows.shape, *self.shape[1:])

    def check_row(self, row: int) -> np.ndarray:
        """The file of a frame, uint8 [bytes], after its place, checksum and size were checked. Raises DataError."""
        content = self._file(row)
        self.coding.check_size(content, self._frame_HWC[:2], partial(self._where, row))
        return content

    def checksum(self, rows: slice) -> int:
        """crc32 of the files of consecutive frames, each checked. Raises DataError."""
        for row in range(rows.start, rows.stop):
            self.check_row(row)
        return checksum(self._content[self._start(rows.start) : int(self._ends[rows.stop - 1])])

    def _decode(self, rows: np.ndarray, places: np.ndarray, result: np.ndarray) -> None:
        """Frame `rows[place]` into `result[place]`, for each of the places."""
        pixels_HWC = np.empty(self._frame_HWC, np.uint8) if self._channels_first else None
        for place in places:
            row = int(rows[place])
            if pixels_HWC is None:
                self.coding.decode(self._file(row), result[place], partial(self._where, row))
            else:
                self.coding.decode(self._file(row), pixels_HWC, partial(self._where, row))
                result[place] = pixels_HWC.transpose(2, 0, 1)

    def _start(self, row: int) -> int:
        return int(self._ends[row - 1]) if row else 0

    def _file(self, row: int) -> np.ndarray:
        start, end = self._start(row), int(self._ends[row])
        if not start < end <= len(self._content):
            raise DataError(
                f"{self._where(row)}: its place in the file was changed: found bytes {start} to {end} of "
                f"{len(self._content)}"
            )
        content = self._content[start:end]
        found, expected = checksum(content), int(self._checksums[row])
        if found != expected:
            raise DataError(
                f"{self._where(row)}: found checksum {found}, expected {expected}: "
                "its bytes were changed after they were written"
            )
        return content
