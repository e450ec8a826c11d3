"""What every episode of a store looks like, and the file that says so."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np

from qseq.episodes.action_space import ActionSpace
from qseq.episodes.codings import ImageCoding
from qseq.episodes.episode import Episode, check_finite
from qseq.errors import DataError, RequestError

FORMAT_VERSION = 1
COMPRESSED_VERSION = 2
"""Of stores with compressed pictures, which an older qseq would read as raw ones."""
_VERSIONS = (FORMAT_VERSION, COMPRESSED_VERSION)
SCHEMA_FILE = "schema.json"
COLUMN_FOLDER = "columns"


class FieldSpec(NamedTuple):
    """dtype name and shape of one row, such as ("float32", (39,))."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def storage_dtype(self) -> np.dtype[Any]:
        """The dtype on disk: little-endian everywhere."""
        return np.dtype(self.dtype).newbyteorder("<")

    @property
    def row_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class StoreSchema:
    """Observation fields, action space and, if known, the environment.

    Attributes:
        fields: observation name -> (dtype, shape of one observation).
        action_space: JSON form, see `qseq.episodes.action_space`; made canonical here.
        env: JSON description of the environment, None if unknown. It may differ between episodes that share a schema.
        version: of the store's format.
        dimension_names: field name or "action" -> what its dimensions are called, where the source of the data said.
        codings: field name -> how its pictures are compressed (see `ImageCoding`); not named are those that are raw.
            Stores with other codings hold the same fields: `require_same` does not ask for it.
    """

    fields: dict[str, FieldSpec]
    action_space: dict[str, Any]
    env: dict[str, Any] | None = None
    version: int = field(default=FORMAT_VERSION)
    dimension_names: dict[str, list[str]] = field(default_factory=dict)
    codings: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        fields = {
            name: FieldSpec(_stored_dtype(name, spec[0]), tuple(int(n) for n in spec[1]))
            for name, spec in sorted(self.fields.items())
        }
        if not fields:
            raise DataError("schema: found no observation field, expected at least one")
        object.__setattr__(self, "fields", fields)
        object.__setattr__(self, "action_space", ActionSpace.from_json(self.action_space).to_json())
        if self.codings:
            object.__setattr__(self, "version", COMPRESSED_VERSION)
            object.__setattr__(self, "codings", {name: str(self.coding(name)) for name in sorted(self.codings)})

    @cached_property
    def space(self) -> ActionSpace:
        """The parsed action space."""
        return ActionSpace.from_json(self.action_space)

    @cached_property
    def columns(self) -> dict[str, FieldSpec]:
        """Every column: the observation fields (T+1 rows an episode), then "action" and "reward" (T rows)."""
        return {
            **self.fields,
            "action": FieldSpec(self.space.dtype, self.space.shape),
            "reward": FieldSpec("float32", ()),
        }

    def coding(self, name: str) -> ImageCoding | None:
        """How the pictures of a column are compressed; None for every other column.

        Raises:
            DataError: the field cannot be compressed so.
            RequestError: the library is not installed.
        """
        if name not in self.codings:
            return None
        coding = ImageCoding.parse(self.codings[name])
        spec = self.fields.get(name)
        if coding is None or spec is None or not coding.fits(spec):
            raise DataError(f"schema: field '{name}': found coding {self.codings[name]!r} of what is no such picture")
        return coding

    def with_images(self, images: str | None) -> StoreSchema:
        """The same with all pictures in one coding, see `ImageCoding`; None leaves them as they are.

        Raises:
            RequestError: it is no coding, or there is no picture that it fits.
        """
        if images is None:
            return self
        coding = ImageCoding.parse(images)
        fitting = [name for name, spec in self.fields.items() if coding is not None and coding.fits(spec)]
        if coding is not None and not fitting:
            raise RequestError(f"images: found {images!r}, expected 'raw': none of the fields {list(self.fields)} fits")
        return replace(self, version=FORMAT_VERSION, codings={name: str(coding) for name in fitting})

    @classmethod
    def infer(
        cls,
        episode: Episode,
        action_space: Mapping[str, Any],
        env: dict[str, Any] | None = None,
        dimension_names: Mapping[str, list[str]] | None = None,
    ) -> StoreSchema:
        """The schema of a store whose first episode is `episode`."""
        fields = {name: FieldSpec(v.dtype.name, v.shape[1:]) for name, v in episode.observations.items()}
        return cls(fields, dict(action_space), env, dimension_names=dict(dimension_names or {}))

    def to_json(self) -> dict[str, Any]:
        names = {"dimension_names": self.dimension_names} if self.dimension_names else {}
        return {
            "format": "qseq-episodes",
            "version": self.version,
            "fields": {
                name: {"dtype": spec.dtype, "shape": list(spec.shape)}
                | ({"coding": self.codings[name]} if name in self.codings else {})
                for name, spec in self.fields.items()
            },
            "action_space": self.action_space,
            "env": self.env,
            **names,
        }

    def require_same(self, other: StoreSchema, where: str) -> None:
        """Raise DataError naming the first field in which `other` (found) differs from this schema (expected)."""
        for name in sorted(self.fields.keys() | other.fields.keys()):
            expected, found = self.fields.get(name), other.fields.get(name)
            if found == expected:
                continue
            if found is None or expected is None:
                here = "is missing" if found is None else "is not expected"
                raise DataError(
                    f"{where}: field '{name}' {here}: found fields {list(other.fields)}, expected {list(self.fields)}"
                )
            raise DataError(
                f"{where}: field '{name}': found {found.dtype} {list(found.shape)}, "
                f"expected {expected.dtype} {list(expected.shape)}"
            )
        if other.action_space != self.action_space:
            raise DataError(f"{where}: action space: found {other.action_space}, expected {self.action_space}")

    def conform(self, episode: Episode, where: str) -> dict[str, np.ndarray]:
        """The columns of a valid episode as they are stored, C-contiguous.

        Raises:
            DataError: a field is missing, unexpected or has another shape or dtype, or an action is out of bounds.
        """
        self.require_same(StoreSchema.infer(episode, self.action_space), where)
        self.space.check(where, episode.actions)
        values = {**episode.observations, "action": episode.actions, "reward": episode.rewards}
        columns = {}
        for name, spec in self.columns.items():
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(values[name], dtype=spec.storage_dtype)
            if stored.dtype != values[name].dtype and stored.dtype.kind == "f":
                check_finite(f"{where} (after rounding to {spec.dtype})", name, stored)
            columns[name] = stored
        return columns


def _stored_dtype(name: str, dtype: str) -> str:
    try:
        parsed = np.dtype(dtype)
    except TypeError as error:
        raise DataError(f"schema: field '{name}': found dtype {dtype!r}, expected a numpy dtype name") from error
    if parsed.kind not in "fiub":
        raise DataError(f"schema: field '{name}': found dtype {dtype!r}, expected numbers")
    return "float32" if parsed == np.float64 else parsed.name


def column_path(folder: Path, name: str) -> Path:
    """Where a column lies; nested names such as "camera/front" are escaped into one file name."""
    return folder / COLUMN_FOLDER / f"{quote(name, safe='')}.bin"


def index_path(folder: Path, name: str) -> Path:
    """Where the places of a column's pictures lie, if they are compressed."""
    return column_path(folder, name).with_suffix(".index")


def schema_bytes(schema: StoreSchema) -> bytes:
    """schema.json: indented for people, with a checksum over the canonical form."""
    body = schema.to_json()
    return (json.dumps({**body, "crc32": _checksum(body)}, indent=2) + "\n").encode()


def read_schema(folder: Path) -> StoreSchema:
    """Read and check schema.json.

    Raises:
        DataError: the folder is not a store, the file was damaged, or a newer version wrote it.
    """
    path = folder / SCHEMA_FILE
    if not path.is_file():
        found = "no such path" if not folder.exists() else "no schema.json in it" if folder.is_dir() else "a file"
        raise DataError(f"{folder} is not an episode store: found {found}, expected a folder written by StoreWriter")
    try:
        body = json.loads(path.read_bytes())
        checksum = body.pop("crc32")
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(
            f"{path} is damaged: it cannot be read as a schema ({error!r}); restore it from a copy"
        ) from error
    if checksum != _checksum(body):
        raise DataError(
            f"{path} is damaged: found checksum {_checksum(body)}, expected {checksum}; restore it from a copy"
        )
    if body.get("format") != "qseq-episodes" or body.get("version") not in _VERSIONS:
        raise DataError(
            f"{path}: found format {body.get('format')!r} version {body.get('version')!r}, "
            f"expected 'qseq-episodes' version {FORMAT_VERSION} or {COMPRESSED_VERSION}; a newer qseq may have "
            "written it"
        )
    fields = {name: FieldSpec(spec["dtype"], tuple(spec["shape"])) for name, spec in body["fields"].items()}
    codings = {name: str(spec["coding"]) for name, spec in body["fields"].items() if "coding" in spec}
    names = body.get("dimension_names", {})
    return StoreSchema(fields, body["action_space"], body["env"], body["version"], names, codings)


def _checksum(body: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
