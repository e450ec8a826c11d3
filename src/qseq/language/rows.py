"""Rows of text data, from files or objects: plain dictionaries, checked for their columns."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from qseq.errors import DataError, RequestError

Row = Mapping[str, Any]

COLUMNS = (
    "prompt",
    "completion",
    "messages",
    "input_ids",
    "action_mask",
    "reward",
    "rewards",
    "terminated",
    "truncated",
    "next_prompt",
    "next_messages",
)
"""Every column that is read; others are ignored unless they look like a misspelling of one that is missing."""
FORMS = (("messages",), ("input_ids", "action_mask"), ("prompt", "completion"))
"""The columns that say what the text is, one of these."""


def read_rows(source: Any) -> list[Row]:
    """The rows of a data set.

    Args:
        source: a `.jsonl`, `.json` or `.parquet` file, a folder that `datasets` saved, a `datasets.Dataset`, or any
            iterable of mappings.

    Raises:
        RequestError: there is no such file, or it is of no known kind.
        DataError: the file is damaged.
    """
    if isinstance(source, (str, Path)):
        return _read_path(Path(source))
    rows = list(source)
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise DataError(f"row {number}: found a {type(row).__name__}, expected a mapping of columns to values")
    return rows


def _read_path(path: Path) -> list[Row]:
    if path.is_dir():
        return _read_saved(path)
    if not path.is_file():
        raise RequestError(f"{path}: found no such file, expected JSON lines, Parquet or a folder saved by datasets")
    if path.suffix == ".parquet":
        import pyarrow
        import pyarrow.parquet

        try:
            return list(pyarrow.parquet.read_table(path).to_pylist())
        except (pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{path}: cannot be read as Parquet ({' '.join(str(error).split())})") from error
    if path.suffix not in (".jsonl", ".json", ".ndjson"):
        raise RequestError(f"{path}: found a {path.suffix or 'nameless'} file, expected .jsonl, .parquet or a folder")
    return list(_json_lines(path))


def _json_lines(path: Path) -> Iterable[Row]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise DataError(f"{path}, row {number}: not valid JSON ({error})") from None
            if not isinstance(row, dict):
                raise DataError(f"{path}, row {number}: found a {type(row).__name__}, expected a JSON object a line")
            yield row


def _read_saved(path: Path) -> list[Row]:
    try:
        import datasets
    except ImportError as error:
        raise RequestError(f"{path}: reading it needs datasets: pip install 'qseq[language]'") from error
    try:
        found = datasets.load_from_disk(str(path))
    except (FileNotFoundError, OSError, ValueError) as error:
        raise RequestError(f"{path}: found no data set that datasets saved ({' '.join(str(error).split())})") from error
    if isinstance(found, datasets.DatasetDict):
        found = found["train"] if "train" in found else datasets.concatenate_datasets(list(found.values()))
    return list(found)


def form_of(row: Row, number: int) -> Sequence[str]:
    """Which of `FORMS` a row has.

    Raises:
        DataError: none; names the missing column, and the one nearest to it.
    """
    # Tables hold None in the columns that a row lacks.
    present = [name for name, value in row.items() if value is not None]
    for form in FORMS:
        if all(name in present for name in form):
            return form
    nearest_form = max(
        FORMS, key=lambda form: sum(max(_likeness(name, found) for found in [*present, ""]) for name in form)
    )
    missing = next(name for name in nearest_form if name not in present)
    raise DataError(f"row {number}: column '{missing}' is missing{_hint(missing, present)}")


def require_reward(row: Row, number: int) -> None:
    """Raise DataError unless a row says what it was worth."""
    present = [name for name, value in row.items() if value is not None]
    if "reward" not in present and "rewards" not in present:
        raise DataError(f"row {number}: column 'reward' (or 'rewards') is missing{_hint('reward', present)}")
    if "reward" in present and "rewards" in present:
        raise DataError(f"row {number}: found both 'reward' and 'rewards', expected one of them")


def _hint(missing: str, present: Sequence[str]) -> str:
    others = [name for name in present if name not in COLUMNS]
    nearest = max(others, key=lambda name: _likeness(missing, name), default=None)
    if nearest is not None and _likeness(missing, nearest) >= 0.5:
        return f"; found '{nearest}': rename it to '{missing}'"
    return f"; found {', '.join(sorted(present)) or 'no columns'}"


def _likeness(name: str, other: str) -> float:
    return difflib.SequenceMatcher(None, name.lower(), other.lower()).ratio()
