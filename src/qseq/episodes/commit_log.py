"""The commit log: an episode exists once its line is in `episodes.jsonl`.

Each line is a JSON object that ends in the crc32 of what stands before it:

    {"index":0,"first_step":0,"steps":3,...,"columns":{"state":123,...},"crc32":456}

What follows the last newline is the rest of a write that was cut off: readers ignore it, the next writer cuts it away.
A damaged line that does end in a newline was not cut off, it was changed: that is an error.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qseq.errors import DataError

if TYPE_CHECKING:
    from qseq.episodes.schema import StoreSchema

LOG_FILE = "episodes.jsonl"
_MARK = b',"crc32":'


@dataclass(frozen=True)
class CommitLog:
    """The readable part of the log: one record an episode, and its length in bytes."""

    records: list[dict[str, Any]]
    num_bytes: int
    num_steps: int


def encode_record(record: dict[str, Any]) -> bytes:
    """One line, newline included."""
    body = json.dumps(record, separators=(",", ":"), allow_nan=False).encode()[:-1]
    return body + _MARK + str(zlib.crc32(body)).encode() + b"}\n"


def read_log(folder: Path) -> CommitLog:
    """Read all records.

    Raises:
        DataError: a line was damaged, removed or repeated; names the line.
    """
    path = folder / LOG_FILE
    if not path.is_file():
        raise DataError(f"{path} is missing: expected the commit log of the store; restore it from a copy")
    data = path.read_bytes()
    num_bytes = data.rfind(b"\n") + 1
    lines = data[:num_bytes].split(b"\n")[:-1]
    if num_bytes < len(data) and _checked_body(data[num_bytes:-1]) is not None:
        raise _damaged(path, len(lines), "its newline was overwritten")
    bodies = []
    for number, line in enumerate(lines):
        body = _checked_body(line)
        if body is None:
            raise _damaged(path, number, "its checksum does not match")
        bodies.append(body)
    # One call for all lines: parsing line by line takes three times as long.
    records: list[dict[str, Any]] = json.loads(b"[" + b"},".join(bodies) + (b"}]" if bodies else b"]"))
    num_steps = 0
    for number, record in enumerate(records):
        if record["index"] != number or record["first_step"] != num_steps:
            raise _damaged(path, number, f"found episode {record['index']}, expected {number}: a line is missing")
        num_steps += record["steps"]
    return CommitLog(records, num_bytes, num_steps)


def image_bytes(schema: StoreSchema, records: list[dict[str, Any]]) -> dict[str, int]:
    """Column of compressed pictures -> its committed bytes.

    Raises:
        DataError: an episode does not say.
    """
    try:
        return {name: sum(record["bytes"][name] for record in records) for name in schema.codings}
    except (KeyError, TypeError) as error:
        raise DataError(f"{LOG_FILE}: an episode does not say how many bytes its pictures take ({error!r})") from error


def _checked_body(line: bytes) -> bytes | None:
    """The line without its checksum, None if the checksum does not match."""
    body, _, checksum = line.rpartition(_MARK)
    if checksum != str(zlib.crc32(body)).encode() + b"}":
        return None
    return body


def _damaged(path: Path, number: int, reason: str) -> DataError:
    return DataError(f"{path} is damaged at line {number + 1} (episode {number}): {reason}; restore it from a copy")
