"""What qseq writes beside a LeRobot data set so that a store comes back exactly; see `lerobot_layout`.

The `lerobot` package neither reads nor keeps these files, so an episode that it wrote or changed has no row here, or
one whose length does not fit: then the episode is read as anybody's.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.episode import JsonScalar
from qseq.episodes.formats.images import decode_image
from qseq.episodes.formats.lerobot_layout import EXTRA_EPISODES_FOLDER, EXTRAS, Feature, checksum, read_json
from qseq.episodes.formats.parquet import ParquetRows, numbers
from qseq.errors import DataError

FINAL = "final/"
NUMBERS = ["episode_index", "length", "terminated", "truncated", "success"]


@dataclass(frozen=True)
class ExtraEpisode:
    """One row of the side table."""

    terminated: bool
    truncated: bool
    success: bool | None
    metadata: dict[str, JsonScalar]
    table: Any

    def final(self, key: str, feature: Feature, where: str) -> np.ndarray:
        """The observation after the last action: pictures as [height, width, channels]."""
        if feature.kind == "numbers":
            values: np.ndarray = numbers(self.table, FINAL + key, feature.shape, feature.dtype, where)[0]
            return values
        content = self.table.column(FINAL + key)[0].as_py()
        if not isinstance(content, bytes):
            raise DataError(f"{where}: field '{key}': found no last picture, expected its bytes")
        return decode_image(content, (feature.shape[0], feature.shape[1], feature.shape[2]), f"{where}: last '{key}'")


@dataclass
class Extras:
    """Empty where qseq did not write the data set.

    Attributes:
        fields: field name -> feature.
        shapes: field name -> shape of one observation in the store.
        channels_last: the pictures that the store keeps as [height, width, channels].
    """

    fields: dict[str, str] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    channels_last: set[str] = field(default_factory=set)
    action_space: dict[str, Any] | None = None
    action_shape: tuple[int, ...] | None = None
    env: dict[str, Any] | None = None
    _paths: list[Path] = field(default_factory=list)
    _rows: ParquetRows | None = None
    _first: dict[int, tuple[int, int]] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> Extras:
        """Raises DataError where the files are there and damaged."""
        path = root / EXTRAS
        if not path.is_file():
            return cls()
        body = read_json(path)
        if body.pop("crc32", None) != checksum(body):
            raise DataError(f"{path} is damaged: its checksum does not match; restore it, or remove it to do without")
        try:
            extras = cls(
                fields={str(name): str(spec["feature"]) for name, spec in body["fields"].items()},
                shapes={str(name): tuple(int(n) for n in spec["shape"]) for name, spec in body["fields"].items()},
                channels_last={str(name) for name, spec in body["fields"].items() if spec.get("channels_last")},
                action_space=dict(body["action_space"]),
                action_shape=tuple(int(n) for n in body["action_shape"]),
                env=body["env"],
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DataError(f"{path} is damaged: {error!r}") from error
        extras._paths = sorted((root / EXTRA_EPISODES_FOLDER).glob("*/*.parquet"))
        for number, table_path in enumerate(extras._paths):
            with closing(ParquetRows(table_path, ["episode_index"])) as rows:
                indices = numbers(rows.read(0, rows.num_rows), "episode_index", (), "int64", str(table_path))
            extras._first |= {int(episode): (number, row) for row, episode in enumerate(indices)}
        return extras

    def episode(self, episode: int, length: int) -> ExtraEpisode | None:
        """What is known beyond LeRobot, None where nothing is."""
        if episode not in self._first:
            return None
        number, row = self._first[episode]
        path = self._paths[number]
        if self._rows is None or self._rows.path != path:
            if self._rows is not None:
                self._rows.close()
            self._rows = ParquetRows(path, [*NUMBERS, "metadata", *(FINAL + key for key in self.fields.values())])
        table = self._rows.read(row, 1)
        values = {name: int(numbers(table, name, (), "int64", str(path))[0]) for name in NUMBERS}
        if values["length"] != length:
            return None
        try:
            metadata = json.loads(table.column("metadata")[0].as_py())
        except (TypeError, ValueError) as error:
            raise DataError(f"{path}: episode {episode}: the metadata cannot be read ({error})") from error
        return ExtraEpisode(
            terminated=bool(values["terminated"]),
            truncated=bool(values["truncated"]),
            success=None if values["success"] < 0 else bool(values["success"]),
            metadata=metadata,
            table=table,
        )

    def shaped(self, name: str, values: np.ndarray, camera: Feature | None) -> np.ndarray:
        """Values as the store keeps them: pictures with channels first unless the store had them last."""
        if camera is None:
            return values.reshape(len(values), *self.shapes[name]) if name in self.shapes else values
        if name in self.channels_last:
            return values
        return np.ascontiguousarray(np.moveaxis(values, -1, 1))
