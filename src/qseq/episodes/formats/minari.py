"""Minari data sets read, one episode at a time.

Kept: observations, actions, rewards, how episodes ended, success, instruction, metadata, environment.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.action_space import ActionSpace
from qseq.episodes.episode import Episode, JsonScalar
from qseq.episodes.formats.base import Losses
from qseq.episodes.formats.hdf5_safety import check_hdf5
from qseq.episodes.formats.minari_spaces import action_space_to_json, flatten_observations
from qseq.errors import DataError, RequestError

ENV_KEY = "qseq_env"
METADATA_PREFIX = "qseq_metadata"
DIMENSION_NAMES_KEY = "qseq_dimension_names"
BOOLEANS_KEY = "qseq_booleans"
EMPTY_KEY = "qseq_empty"
_SUCCESS_INFOS = ("success", "is_success")
_INSTRUCTION_NAMES = ("instruction", "mission")


def minari_root() -> Path:
    """Where Minari looks for data sets that are named without a folder."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


class MinariReader:
    """An `EpisodeReader` of a Minari data set, in HDF5 or Arrow.

    Args:
        folder: the data set's own folder, root/ID.

    Raises:
        RequestError: minari is not installed, or there is no data set in `folder`.
        DataError: a file of it asks for what no recording does, see `hdf5_safety`.
    """

    def __init__(self, folder: Path) -> None:
        minari = import_library()
        if not (folder / "data" / "metadata.json").is_file():
            raise RequestError(
                f"{folder} is not a Minari data set: found no data/metadata.json in it; "
                f"'minari download {folder.name}' fetches a published one"
            )
        for file in sorted((folder / "data").glob("*.hdf5")):
            check_hdf5(file)
        try:
            self._dataset = minari.MinariDataset(folder / "data")
        except (ValueError, KeyError, AssertionError, NotImplementedError, OSError) as error:
            raise RequestError(f"{folder}: minari cannot open this data set: {error}") from error
        self._space = ActionSpace.from_json(action_space_to_json(self._dataset.action_space))
        self.name = folder.name
        self.num_episodes = len(self._dataset)
        self.action_space = self._space.to_json()
        raw = self._dataset.storage.read_raw_metadata(self._dataset.storage.data_path)
        self.env = _environment(self._dataset, raw)
        self.dimension_names: dict[str, list[str]] = json.loads(raw.get(DIMENSION_NAMES_KEY, "{}"))
        self._booleans: list[str] = json.loads(raw.get(BOOLEANS_KEY, "[]"))
        self.losses = Losses()

    def episodes(self, first: int = 0) -> Iterator[Episode]:
        indices = self._dataset.episode_indices[first:]
        attributes = self._dataset.storage.get_episode_metadata(indices)
        recordings = iter(self._dataset.iterate_episodes(indices))
        for index, metadata in zip(indices, attributes, strict=True):
            try:
                data = next(recordings)
            except (ValueError, KeyError, TypeError, AttributeError, OSError, StopIteration) as error:
                # Such as one number an info in Arrow, which minari writes and cannot read back.
                raise DataError(f"{self.name}, episode {index}: minari cannot read it: {error!r}") from error
            yield self._episode(data, metadata)

    def _episode(self, data: Any, attributes: dict[str, Any]) -> Episode:
        arrays, texts = flatten_observations(data.observations)
        if not arrays:
            raise RequestError(f"episode {data.id}: found no observation field that holds numbers")
        for name in self._booleans:  # a Box holds none: qseq writes them as uint8
            if name in arrays:
                arrays[name] = arrays[name].astype(bool)
        infos = dict(data.infos or {})
        metadata = _scalars(attributes.pop(METADATA_PREFIX, {}))
        metadata |= dict.fromkeys(json.loads(attributes.pop(EMPTY_KEY, "[]")))
        metadata |= {key: value for key, value in _scalars(attributes).items() if key not in ("id", "total_steps")}
        instruction = self._instruction(texts, infos, attributes)
        success = None
        for name in _SUCCESS_INFOS:
            if name in infos:
                # Arrow puts empty places where an episode lacks what another one has.
                said = [bool(value) for value in np.ravel(infos.pop(name)) if value is not None and value == value]
                success = bool(success) or any(said) if said else success
        for name in infos:
            self.losses.name("infos not kept", name)
        terminated, truncated = bool(data.terminations[-1]), bool(data.truncations[-1])
        self.losses.count("{} episodes are terminated and truncated: kept as terminated", terminated and truncated)
        return Episode(
            observations=arrays,
            actions=self._actions(np.asarray(data.actions)),
            rewards=np.asarray(data.rewards).reshape(-1),
            terminated=terminated,
            truncated=truncated and not terminated,
            success=success,
            instruction=instruction,
            metadata=metadata,
        )

    def _actions(self, actions: np.ndarray) -> np.ndarray:
        if self._space.kind != "box":
            return actions.astype(np.int64)
        # Simulators clip what they are given, so recordings of them hold actions out of bounds. NaN passes, to be
        # reported with its place.
        outside = (actions < self._space.low) | (actions > self._space.high)
        self.losses.count(
            "{} actions were outside the action space's bounds: clipped to them",
            outside.any(axis=tuple(range(1, outside.ndim))).sum(),
        )
        clipped: np.ndarray = np.clip(actions, self._space.low, self._space.high)
        return clipped

    def _instruction(self, texts: dict[str, list[str]], infos: dict[str, Any], attributes: dict[str, Any]) -> str:
        found = ""
        for name, values in texts.items():
            if name.rpartition("/")[2] not in _INSTRUCTION_NAMES or found:
                self.losses.name("text observations not kept", name)
                continue
            found = values[0]
            self._note_change(values)
        for name in _INSTRUCTION_NAMES:
            if name in infos:
                values = [v.decode() if isinstance(v, bytes) else str(v) for v in np.ravel(infos.pop(name))]
                self._note_change(values)
                found = found or values[0]
            found = found or str(attributes.get(name) or "")
        return found

    def _note_change(self, texts: list[str]) -> None:
        self.losses.count(
            "{} episodes change their instruction on the way: the first one was kept", len(set(texts)) > 1
        )


def _scalars(attributes: dict[str, Any], prefix: str = "") -> dict[str, JsonScalar]:
    """Episode attributes that a store can keep, nested names joined again."""
    result: dict[str, JsonScalar] = {}
    for key, value in attributes.items():
        if isinstance(value, dict):
            result |= _scalars(value, f"{prefix}{key}/")
            continue
        plain = value.item() if isinstance(value, np.generic) else value
        if isinstance(plain, str | bool | int) or (isinstance(plain, float) and np.isfinite(plain)):
            result[prefix + key] = plain
    return result


def _environment(dataset: Any, raw: dict[str, Any]) -> dict[str, Any] | None:
    if ENV_KEY in raw:
        env: dict[str, Any] = json.loads(raw[ENV_KEY])
        return env
    if dataset.env_spec is None:
        return None
    spec = json.loads(dataset.env_spec.to_json())
    return {"id": spec["id"], "kwargs": spec.get("kwargs", {})}


def import_library() -> Any:
    """The minari package.

    Raises:
        RequestError: it is not installed.
    """
    try:
        import h5py  # noqa: F401  (the format needs it; minari itself imports without)
        import minari
    except ImportError as error:
        raise RequestError('reading and writing Minari data sets needs minari: pip install "qseq[minari]"') from error
    return minari
