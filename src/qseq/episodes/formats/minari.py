"""Minari data sets into episode stores and back.

Kept both ways: observations, actions, rewards, how episodes ended, success, instruction, metadata, environment.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.action_space import ActionSpace
from qseq.episodes.episode import Episode, JsonScalar
from qseq.episodes.formats.minari_spaces import (
    action_space_from_json,
    action_space_to_json,
    exported_dtype,
    flatten_observations,
    nest,
    observation_space,
)
from qseq.episodes.store import EpisodeStore
from qseq.episodes.writer import StoreWriter
from qseq.errors import RequestError
from qseq.progress import track

_EPISODES_AT_A_TIME = 64
_SUCCESS_INFOS = ("success", "is_success")
_INSTRUCTION_NAMES = ("instruction", "mission")
_ENV_KEY = "qseq_env"
_METADATA_PREFIX = "qseq_metadata"


def minari_root() -> Path:
    """Where Minari looks for data sets that are named without a folder."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")


def import_minari(folder: Path, destination: Path) -> list[str]:
    """Write the episodes of a Minari data set into a new store.

    Args:
        folder: the data set's own folder, root/ID.
        destination: the store; must not exist.

    Returns:
        Notes, one line each, about what could not be kept as it was.

    Raises:
        RequestError: minari is not installed, or there is no data set in `folder`.
        DataError: an episode is not valid.
    """
    minari = _minari()
    if not (folder / "data" / "metadata.json").is_file():
        raise RequestError(
            f"{folder} is not a Minari data set: found no data/metadata.json in it; "
            f"'minari download {folder.name}' fetches a published one"
        )
    try:
        dataset = minari.MinariDataset(folder / "data")
    except (ValueError, KeyError, AssertionError, NotImplementedError, OSError) as error:
        raise RequestError(f"{folder}: minari cannot open this data set: {error}") from error
    reader = _Reader(dataset)
    with StoreWriter(
        destination, append=False, action_space=reader.space.to_json(), env=_environment(dataset)
    ) as writer:
        writer.extend(track(reader.episodes(), f"reading {folder.name}", len(dataset), unit="episodes"))
    return reader.notes()


class _Reader:
    """Turns Minari episodes into ours and remembers what was lost on the way."""

    def __init__(self, dataset: Any) -> None:
        self.space = ActionSpace.from_json(action_space_to_json(dataset.action_space))
        self._dataset = dataset
        self._lost_infos: set[str] = set()
        self._lost_texts: set[str] = set()
        self._changed_texts = 0
        self._clipped = 0
        self._both_ends = 0

    def notes(self) -> list[str]:
        notes = []
        if self._lost_infos:
            notes.append(f"infos not kept: {', '.join(sorted(self._lost_infos))}")
        if self._lost_texts:
            notes.append(f"text observations not kept: {', '.join(sorted(self._lost_texts))}")
        if self._changed_texts:
            notes.append(f"{self._changed_texts} episodes change their instruction on the way: the first one was kept")
        if self._clipped:
            notes.append(f"{self._clipped} actions were outside the action space's bounds: clipped to them")
        if self._both_ends:
            notes.append(f"{self._both_ends} episodes are terminated and truncated: kept as terminated")
        return notes

    def episodes(self) -> Iterator[Episode]:
        indices = self._dataset.episode_indices
        attributes = self._dataset.storage.get_episode_metadata(indices)
        for data, metadata in zip(self._dataset.iterate_episodes(), attributes, strict=True):
            yield self._episode(data, metadata)

    def _episode(self, data: Any, attributes: dict[str, Any]) -> Episode:
        arrays, texts = flatten_observations(data.observations)
        if not arrays:
            raise RequestError(f"episode {data.id}: found no observation field that holds numbers")
        infos = dict(data.infos or {})
        metadata = _scalars(attributes.pop(_METADATA_PREFIX, {}))
        metadata |= {key: value for key, value in _scalars(attributes).items() if key not in ("id", "total_steps")}
        instruction = self._instruction(texts, infos, attributes)
        success = None
        for name in _SUCCESS_INFOS:
            if name in infos:
                success = bool(success) or bool(np.any(np.asarray(infos.pop(name)).astype(bool)))
        self._lost_infos |= infos.keys()
        terminated, truncated = bool(data.terminations[-1]), bool(data.truncations[-1])
        self._both_ends += terminated and truncated
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
        if self.space.kind != "box":
            return actions.astype(np.int64)
        # Simulators clip what they are given, so recordings of them hold actions out of bounds. NaN passes, to be
        # reported with its place.
        outside = (actions < self.space.low) | (actions > self.space.high)
        self._clipped += int(outside.any(axis=tuple(range(1, outside.ndim))).sum())
        clipped: np.ndarray = np.clip(actions, self.space.low, self.space.high)
        return clipped

    def _instruction(self, texts: dict[str, list[str]], infos: dict[str, Any], attributes: dict[str, Any]) -> str:
        found = ""
        for name, values in texts.items():
            if name.rpartition("/")[2] not in _INSTRUCTION_NAMES or found:
                self._lost_texts.add(name)
                continue
            found = values[0]
            self._changed_texts += len(set(values)) > 1
        for name in _INSTRUCTION_NAMES:
            if name in infos:
                values = [v.decode() if isinstance(v, bytes) else str(v) for v in np.ravel(infos.pop(name))]
                self._changed_texts += len(set(values)) > 1
                found = found or values[0]
            found = found or str(attributes.get(name) or "")
        return found


def write_minari(store: EpisodeStore, dataset_id: str, root: Path) -> list[str]:
    """Write a store as a Minari data set that `minari.load_dataset` opens; images stay lossless.

    Args:
        store: what to write.
        dataset_id: "name-v0" or "namespace/name-v0".
        root: the folder of data sets; nothing is written outside it.

    Returns:
        Notes, one line each, about what could not be kept as it was.

    Raises:
        RequestError: minari is not installed, the store is empty, the id is malformed or there is such a data set.
    """
    minari = _minari()
    from minari.dataset.minari_dataset import parse_dataset_id

    try:
        namespace = parse_dataset_id(dataset_id)[0]
    except ValueError as error:
        raise RequestError(
            f"{dataset_id!r} is not a Minari id: expected (namespace/)name-v0, such as 'push/mixed-v0'"
        ) from error
    if store.num_episodes == 0:
        raise RequestError(f"{store.path}: found 0 episodes, expected at least 1 to write a Minari data set")
    final = Path(root) / dataset_id
    if final.exists():
        raise RequestError(f"{final} exists already; choose another id or folder")
    Path(root).mkdir(parents=True, exist_ok=True)
    # Written aside and renamed: a data set is there in full or not at all.
    staging = Path(tempfile.mkdtemp(dir=root, prefix=".writing-"))
    try:
        with _datasets_at(staging):
            _write(minari, store, dataset_id)
        if namespace is not None:
            _create_namespace(namespace, Path(root))
        (staging / dataset_id).rename(final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [
        f"field '{name}': booleans were written as uint8"
        for name, spec in store.schema.fields.items()
        if np.dtype(spec.dtype).kind == "b"
    ]


def _write(minari: Any, store: EpisodeStore, dataset_id: str) -> None:
    from minari.data_collector import EpisodeBuffer

    dataset = None
    indices = track(iter(range(store.num_episodes)), f"writing {dataset_id}", store.num_episodes, unit="episodes")
    while group := list(islice(indices, _EPISODES_AT_A_TIME)):
        episodes = [store.episode(index) for index in group]
        buffers = [EpisodeBuffer(**_buffer(store, episode)) for episode in episodes]
        if dataset is None:
            dataset = minari.create_dataset_from_buffers(
                dataset_id,
                buffers,
                observation_space=observation_space(store.schema.fields),
                action_space=action_space_from_json(store.schema.action_space),
                description="Written by qseq.",
                data_format="hdf5",
                jpeg_encoding=False,
            )
        else:
            dataset.update_dataset_from_buffer(buffers)
        dataset.storage.update_episode_metadata(
            [
                {f"{_METADATA_PREFIX}/{key}": value for key, value in episode.metadata.items() if value is not None}
                for episode in episodes
            ],
            group,
        )
    assert dataset is not None
    if store.schema.env is not None:
        dataset.storage.update_metadata({_ENV_KEY: json.dumps(store.schema.env)})


def _buffer(store: EpisodeStore, episode: Episode) -> dict[str, Any]:
    """The arguments of a Minari EpisodeBuffer."""
    steps = episode.num_steps
    # Minari's infos have one entry for the reset and one for each step.
    infos: dict[str, Any] = {}
    if episode.success is not None:
        infos["success"] = np.arange(steps + 1) == (steps if episode.success else -1)
    if episode.instruction:
        infos["instruction"] = [episode.instruction] * (steps + 1)
    last = np.arange(steps) == steps - 1
    fields = {
        name: values.astype(exported_dtype(store.schema.fields[name]), copy=False)
        for name, values in episode.observations.items()
    }
    return {
        "observations": nest(fields),
        "actions": episode.actions,
        "rewards": episode.rewards,
        "terminations": last & episode.terminated,
        "truncations": last & episode.truncated,
        "infos": infos,
    }


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


def _environment(dataset: Any) -> dict[str, Any] | None:
    raw = dataset.storage.read_raw_metadata(dataset.storage.data_path)
    if _ENV_KEY in raw:
        env: dict[str, Any] = json.loads(raw[_ENV_KEY])
        return env
    if dataset.env_spec is None:
        return None
    spec = json.loads(dataset.env_spec.to_json())
    return {"id": spec["id"], "kwargs": spec.get("kwargs", {})}


def _create_namespace(namespace: str, root: Path) -> None:
    from minari.namespace import create_namespace, list_local_namespaces

    with _datasets_at(root):
        if namespace not in list_local_namespaces():
            create_namespace(namespace)


@contextmanager
def _datasets_at(root: Path) -> Iterator[None]:
    """Minari takes the folder of data sets from an environment variable and warns about absent authors."""
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = str(Path(root).absolute())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before


def _minari() -> Any:
    try:
        import h5py  # noqa: F401  (the format needs it; minari itself imports without)
        import minari
    except ImportError as error:
        raise RequestError('reading and writing Minari data sets needs minari: pip install "qseq[minari]"') from error
    return minari
