"""From the schema of a store to the features of a LeRobot data set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from qseq.episodes.codings import picture_layout
from qseq.episodes.formats.lerobot_layout import (
    ACTION,
    BOOK_KEEPING,
    DONE,
    IMAGES,
    OBSERVATION,
    REWARD,
    SUCCESS,
    TRUNCATED,
)
from qseq.episodes.schema import FieldSpec, StoreSchema


@dataclass(frozen=True)
class Column:
    """A field of the store as a feature.

    Attributes:
        kind: "video", "image" (PNG in Parquet) or "numbers".
        shape: of the feature: pictures (height, width, channels), numbers (1,) for a single one.
        channels_last: whether the store's pictures have that layout already.
    """

    field: str
    key: str
    kind: str
    dtype: str
    shape: tuple[int, ...]
    names: list[str] | None
    channels_last: bool = False

    def pictures(self, values: np.ndarray) -> np.ndarray:
        """The store's frames [T, ...] as [T, height, width, channels]."""
        return values if self.channels_last else np.moveaxis(values, 1, -1)

    def describe(self) -> dict[str, Any]:
        """The feature in info.json."""
        names = ["height", "width", "channels"] if self.kind != "numbers" else self.names
        dtype = self.kind if self.kind != "numbers" else self.dtype
        return {"dtype": dtype, "shape": list(self.shape), "names": names}


def columns_of(schema: StoreSchema, images: str) -> list[Column]:
    """Every observation field, then the action.

    Args:
        images: "video" or "png"; what no film can hold (odd sides, one or four channels) is PNG in any case.
    """
    columns: list[Column] = []
    taken: set[str] = set()
    for name, spec in schema.fields.items():
        layout = picture_layout(spec)
        safe = re.sub(r"[^A-Za-z0-9_.-]", ".", name)
        base = key = (IMAGES if layout else OBSERVATION) + safe
        number = 2
        while key in taken:
            key, number = f"{base}.{number}", number + 1
        taken.add(key)
        if layout is None:
            columns.append(_numbers(name, key, spec, schema.dimension_names.get(name)))
            continue
        last = layout == "last"
        shape = spec.shape if last else (*spec.shape[1:], spec.shape[0])
        film = images == "video" and shape[2] == 3 and shape[0] % 2 == 0 and shape[1] % 2 == 0
        columns.append(Column(name, key, "video" if film else "image", "uint8", shape, None, last))
    columns.append(_numbers("action", ACTION, schema.columns["action"], schema.dimension_names.get("action")))
    return columns


def outcome_features(success_known: bool) -> dict[str, str]:
    """Features about what came of a step -> dtype; the names are those of `lerobot.utils.constants`."""
    features = {REWARD: "float32", DONE: "bool", TRUNCATED: "bool"}
    return features | ({SUCCESS: "bool"} if success_known else {})


def scalar_features(success_known: bool) -> dict[str, dict[str, Any]]:
    """Rewards, flags and book-keeping in info.json."""
    kinds = {**outcome_features(success_known), **BOOK_KEEPING}
    return {key: {"dtype": dtype, "shape": [1], "names": None} for key, dtype in kinds.items()}


def _numbers(field: str, key: str, spec: FieldSpec, names: list[str] | None) -> Column:
    fitting = names if names and len(spec.shape) == 1 and len(names) == spec.shape[0] else None
    return Column(field, key, "numbers", spec.dtype, spec.shape or (1,), fitting)
