"""What a look at all of a store tells: ranges, dropped frames, episodes that are there twice."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np

from qseq.episodes.image_column import ImageColumn
from qseq.episodes.store import EpisodeStore

DROPPED = "dropped_frames"
"""Metadata key of an episode whose source said that frames are missing."""

_ROWS = 8192
_PICTURES = 256


@dataclass(frozen=True, kw_only=True)
class FieldRange:
    """Over all rows of a column: one number a dimension of a vector, one number in all for anything else.

    `sampled` says that only some rows were looked at: pictures, which are always many.
    """

    min: list[float]
    max: list[float]
    mean: list[float]
    sampled: bool


def field_ranges(store: EpisodeStore) -> dict[str, FieldRange]:
    """Column name -> range; reads every number, and some pictures."""
    if store.num_steps == 0:
        return {}
    return {name: _range(column) for name, column in store.columns.items()}


def _range(column: np.ndarray | ImageColumn) -> FieldRange:
    picture = column.dtype == np.uint8 and column.ndim >= 3
    if picture and len(column) > _PICTURES:
        parts = [column[np.linspace(0, len(column) - 1, _PICTURES).astype(np.int64)]]
    else:
        parts = [column[start : start + _ROWS] for start in range(0, len(column), _ROWS)]
    width = column.shape[1] if column.ndim == 2 else 1
    rows = [part.reshape(-1, width) for part in parts]
    total = sum(part.sum(axis=0, dtype=np.float64) for part in rows)
    return FieldRange(
        min=np.min([part.min(axis=0) for part in rows], axis=0).astype(float).tolist(),
        max=np.max([part.max(axis=0) for part in rows], axis=0).astype(float).tolist(),
        mean=(np.asarray(total) / sum(len(part) for part in rows)).tolist(),
        sampled=picture and len(column) > _PICTURES,
    )


def dropped_frames(store: EpisodeStore) -> np.ndarray | None:
    """How many frames are missing in each episode, int64 [episodes]; None where nothing tells.

    Told by the metadata ("dropped_frames", or "fps": then none was dropped unless that says so), or by gaps in a field
    of time stamps: one number a frame, named "timestamp" or ".../timestamp".
    """
    told = any("fps" in metadata or DROPPED in metadata for metadata in store.metadata)
    dropped = np.array([int(metadata.get(DROPPED) or 0) for metadata in store.metadata], dtype=np.int64)
    for name, spec in store.schema.fields.items():
        if name.rpartition("/")[2] == "timestamp" and spec.shape in ((), (1,)):
            told = True
            gaps = [_gaps(np.asarray(store.columns[name][store.rows(name, i)])) for i in range(store.num_episodes)]
            dropped = np.maximum(dropped, np.array(gaps, dtype=np.int64))
    return dropped if told else None


def _gaps(times: np.ndarray) -> int:
    """Frames that fit into the gaps between time stamps, by the usual distance of two."""
    steps = np.diff(times.reshape(-1).astype(np.float64))
    usual = float(np.median(steps)) if len(steps) else 0.0
    return int(np.maximum(np.rint(steps / usual) - 1, 0).sum()) if usual > 0 else 0


def duplicate_episodes(store: EpisodeStore) -> list[list[int]]:
    """Groups of episodes with the same observations, actions and rewards, each in order."""
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for index, checksums in enumerate(store.checksums):
        alike[(int(store.lengths[index]), *(checksums[name] for name in sorted(store.columns)))].append(index)
    groups = []
    for candidates in alike.values():
        while len(candidates) > 1:  # checksums may agree by chance
            first = candidates[0]
            same = [index for index in candidates if index == first or _equal(store, first, index)]
            if len(same) > 1:
                groups.append(same)
            candidates = [index for index in candidates if index not in same]
    return sorted(groups)


def _equal(store: EpisodeStore, first: int, second: int) -> bool:
    return all(
        np.array_equal(store.columns[name][store.rows(name, first)], store.columns[name][store.rows(name, second)])
        for name in store.columns
    )
