"""Rows of Parquet files as numpy arrays, a row group at a time; what a file claims is checked before it is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qseq.errors import DataError

MOST_GROUP_BYTES = 4 * 2**30
_VALUE_BYTES = 8


class ParquetRows:
    """Slices of one file, forward; holds one row group in memory.

    Raises:
        DataError: the file is missing, damaged, or a row group claims to be larger than any that is written.
    """

    def __init__(self, path: Path, columns: list[str]) -> None:
        import pyarrow
        import pyarrow.parquet

        self.path = path
        self._errors = (pyarrow.ArrowException, OSError, ValueError)  # ValueError: names that are not text
        try:
            # One thread and no read-ahead: memory stays at one row group.
            self._file: Any = pyarrow.parquet.ParquetFile(
                str(path), memory_map=False, pre_buffer=False, page_checksum_verification=True
            )
        except FileNotFoundError as error:
            raise DataError(f"{path} is missing: expected a Parquet file of the data set") from error
        except self._errors as error:
            raise DataError(f"{path} is damaged: it cannot be read as Parquet ({_line(error)})") from error
        present = set(self._file.schema_arrow.names)
        absent = [name for name in columns if name not in present]
        if absent:
            raise DataError(f"{path}: found no column '{absent[0]}', expected columns {columns}")
        self._columns = columns
        groups = [self._file.metadata.row_group(i) for i in range(self._file.metadata.num_row_groups)]
        self._ends = np.cumsum([group.num_rows for group in groups], dtype=np.int64)
        # Run lengths pack any number of equal values into a few bytes, so values are counted as well.
        self._sizes = [max(group.total_byte_size, _VALUE_BYTES * _num_values(group)) for group in groups]
        self.num_rows = int(self._file.metadata.num_rows)
        self.names: list[str] = list(self._file.schema_arrow.names)
        self._held = -1
        self._table: Any = None

    def read(self, first: int, count: int) -> Any:
        """Rows `first` to `first + count` as a pyarrow table."""
        import pyarrow

        if first < 0 or first + count > self.num_rows:
            raise DataError(f"{self.path}: found {self.num_rows} rows, expected rows {first} to {first + count}")
        parts = []
        group = int(np.searchsorted(self._ends, first, side="right"))
        while count > 0:
            start = int(self._ends[group - 1]) if group else 0
            size = min(count, int(self._ends[group]) - first)
            parts.append(self._group(group).slice(first - start, size))
            first, count, group = first + size, count - size, group + 1
        return pyarrow.concat_tables(parts)

    def _group(self, index: int) -> Any:
        if index != self._held:
            if not 0 <= self._sizes[index] <= MOST_GROUP_BYTES:
                raise DataError(
                    f"{self.path}: row group {index} claims {self._sizes[index]} bytes, "
                    f"expected at most {MOST_GROUP_BYTES}"
                )
            self._table = None  # the old one is let go before the next is read
            try:
                self._table = self._file.read_row_group(index, columns=self._columns, use_threads=False)
            except self._errors as error:
                raise DataError(f"{self.path} is damaged: row group {index}: {_line(error)}") from error
            self._held = index
        return self._table

    def close(self) -> None:
        self._file.close()


def _num_values(group: Any) -> int:
    return max((group.column(i).num_values for i in range(group.num_columns)), default=0)


def numbers(table: Any, name: str, shape: tuple[int, ...], dtype: str, where: str) -> np.ndarray:
    """A column as an array [rows, *shape] of `dtype`.

    Raises:
        DataError: it holds something else, an empty place, or rows of another shape.
    """
    import pyarrow

    values = table.column(name).combine_chunks()
    if isinstance(values, pyarrow.ChunkedArray):  # no rows, or more than one chunk can hold
        values = pyarrow.concat_arrays(values.chunks)
    if isinstance(values, pyarrow.ExtensionArray):
        values = values.storage
    while (
        pyarrow.types.is_list(values.type)
        or pyarrow.types.is_large_list(values.type)
        or pyarrow.types.is_fixed_size_list(values.type)
    ):
        if values.null_count:
            raise DataError(f"{where}: field '{name}': found an empty place, expected numbers in every row")
        values = values.flatten()
    if values.null_count:
        raise DataError(f"{where}: field '{name}': found an empty place, expected numbers in every row")
    kind = values.type
    if not (pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind) or pyarrow.types.is_boolean(kind)):
        raise DataError(f"{where}: field '{name}': found {kind}, expected numbers")
    found = values.to_numpy(zero_copy_only=False)
    if found.size != table.num_rows * int(np.prod(shape, dtype=np.int64)):
        raise DataError(
            f"{where}: field '{name}': found {found.size} numbers in {table.num_rows} rows, "
            f"expected rows of shape {list(shape)}"
        )
    return np.asarray(found.reshape(table.num_rows, *shape), dtype=dtype)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
