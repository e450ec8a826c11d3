"""A store written as a Minari data set.

Kept: observations, actions, rewards, how episodes ended, success, instruction, metadata, environment.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.conversion import staged
from qseq.episodes.episode import Episode
from qseq.episodes.formats.minari import (
    BOOLEANS_KEY,
    DIMENSION_NAMES_KEY,
    EMPTY_KEY,
    ENV_KEY,
    METADATA_PREFIX,
    import_library,
)
from qseq.episodes.formats.minari_spaces import action_space_from_json, exported_dtype, nest, observation_space
from qseq.episodes.store import EpisodeStore
from qseq.episodes.writer import grouped
from qseq.errors import RequestError
from qseq.progress import track


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
    minari = import_library()
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
    # HDF5 files do not survive a kill, so an interrupted export begins anew.
    with staged(final, {}, resumable=False) as content:
        with _datasets_at(content / "root"):
            _write(minari, store, dataset_id)
        _lift(content / "root" / dataset_id, content)
        if namespace is not None:
            _create_namespace(namespace, Path(root))
    return [
        f"field '{name}': booleans were written as uint8"
        for name, spec in store.schema.fields.items()
        if np.dtype(spec.dtype).kind == "b"
    ]


def _write(minari: Any, store: EpisodeStore, dataset_id: str) -> None:
    from minari.data_collector import EpisodeBuffer

    dataset = None
    done = 0
    indices = track(range(store.num_episodes), f"writing {dataset_id}", unit="episodes")
    for episodes in grouped(store.episode(index) for index in indices):
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
            [_attributes(episode) for episode in episodes],
            range(done, done + len(episodes)),
        )
        done += len(episodes)
    assert dataset is not None
    booleans = [name for name, spec in store.schema.fields.items() if np.dtype(spec.dtype).kind == "b"]
    described = {ENV_KEY: store.schema.env, DIMENSION_NAMES_KEY: store.schema.dimension_names, BOOLEANS_KEY: booleans}
    dataset.storage.update_metadata({key: json.dumps(value) for key, value in described.items() if value})


def _attributes(episode: Episode) -> dict[str, Any]:
    """Of an episode's group; an attribute cannot be without a value, so those are named apart."""
    known = {f"{METADATA_PREFIX}/{key}": value for key, value in episode.metadata.items() if value is not None}
    empty = [key for key, value in episode.metadata.items() if value is None]
    return known | ({EMPTY_KEY: json.dumps(empty)} if empty else {})


def _lift(folder: Path, content: Path) -> None:
    """Make `content` hold what is in `folder`, which lies somewhere below it."""
    below = content / folder.relative_to(content).parts[0]
    for entry in list(folder.iterdir()):
        entry.rename(content / entry.name)
    shutil.rmtree(below)


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
