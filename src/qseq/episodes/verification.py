"""The full check of a store, one episode at a time."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

import numpy as np

from qseq.episodes.episode import check_finite
from qseq.episodes.image_column import ImageColumn
from qseq.errors import DataError

if TYPE_CHECKING:
    from qseq.episodes.store import EpisodeStore


def verify_episode(store: EpisodeStore, index: int, checksums: dict[str, int]) -> None:
    """Check one episode against its commit record.

    Raises:
        DataError: names the episode, the field and, for a value, the step.
    """
    where = f"{store.path}, episode {index}"
    for name in store.columns:
        column = store.columns[name]
        if isinstance(column, ImageColumn):
            _require(column.checksum(store.rows(name, index)), checksums[name], where, name)
            continue
        values = np.ascontiguousarray(column[store.rows(name, index)])
        # The value says more than the checksum does, so it is looked at first.
        check_finite(where, name, values)
        if name == "action":
            store.schema.space.check(where, values)
        _require(zlib.crc32(values.data) if values.size else 0, checksums[name], where, name)
    if store.terminated[index] and store.truncated[index]:
        raise DataError(f"{where}: found both terminated and truncated, expected at most one of them")


def _require(found: int, expected: int, where: str, name: str) -> None:
    if found != expected:
        raise DataError(
            f"{where}: field '{name}': found checksum {found}, expected {expected}: "
            "its bytes were changed after they were written"
        )
