"""robomimic HDF5 files read: `data/demo_0/{obs, next_obs, actions, rewards, dones}`, `mask/NAME`, environment.

Kept: observations, actions, rewards, ends, environment, filter keys (episode metadata "mask/NAME": true), language.
Not kept: simulator states and models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes.episode import Episode, JsonScalar
from qseq.episodes.formats.base import FINAL_OBSERVATION, Losses
from qseq.episodes.formats.hdf5_safety import check_hdf5, open_hdf5
from qseq.errors import DataError

_READ = {"obs", "next_obs", "actions", "rewards", "dones"}


class RobomimicReader:
    """An `EpisodeReader` of a robomimic file.

    robomimic's actions lie in [-1, 1]; where they do not (absolute poses) the space has no bounds, and training takes
    them from the data. Rewards that are only 0 and 1 say success; shaped ones do not. `dones` marks a success or the
    end of the recording, depending on how the file was made: it is kept as terminated, unless a success is known to
    be absent.

    Raises:
        RequestError: h5py is not installed, or there is no such file.
        DataError: not a robomimic file, or it holds what no recording does, see `hdf5_safety`.
    """

    def __init__(self, path: Path) -> None:
        check_hdf5(path)
        self.name = path.stem
        self.losses = Losses()
        self.dimension_names: dict[str, list[str]] = {}
        self._path = path
        with open_hdf5(path, "robomimic") as file:
            if "data" not in file:
                raise DataError(f"{path} is not a robomimic file: found no group 'data' in it")
            self._demos = sorted(file["data"], key=_number)
            self.num_episodes = len(self._demos)
            self.env = self._environment(file["data"].attrs.get("env_args"))
            self._masks = self._read_masks(file)
            self.action_space = self._bounds(file["data"])

    def episodes(self, first: int = 0) -> Iterator[Episode]:
        with open_hdf5(self._path, "robomimic") as file:
            for name in self._demos[first:]:
                try:
                    episode = self._episode(file["data"][name], name)
                except (OSError, RuntimeError, KeyError, TypeError, ValueError) as error:
                    reason = " ".join(str(error).split())
                    raise DataError(f"{self._path}, {name}: the data are damaged ({reason})") from error
                yield episode

    def _episode(self, demo: Any, name: str) -> Episode:
        where = f"{self._path}, {name}"
        for key in demo.keys() - _READ:
            self.losses.name("data not kept", key)
        if "model_file" in demo.attrs:
            self.losses.name("data not kept", "model_file")
        actions = np.asarray(self._data(demo, "actions", where)).astype(np.float32)
        steps = len(actions)
        rewards = np.asarray(demo["rewards"], np.float32).reshape(-1) if "rewards" in demo else None
        if rewards is None:
            self.losses.count("{} episodes have no rewards: kept as 0")
            rewards = np.zeros(steps, np.float32)
        binary = bool(np.isin(rewards, (0.0, 1.0)).all()) and "rewards" in demo
        success = bool((rewards > 0).any()) if binary else None
        done = "dones" in demo and steps > 0 and bool(np.asarray(demo["dones"]).reshape(-1)[-1])
        metadata: dict[str, JsonScalar] = {"demo": name}
        metadata |= {f"mask/{mask}": True for mask, members in self._masks.items() if name in members}
        return Episode(
            observations=self._observations(demo, steps, metadata, where),
            actions=actions,
            rewards=rewards,
            terminated=done and success is not False,
            truncated=done and success is False,
            success=success,
            instruction=_language(demo),
            metadata=metadata,
        )

    def _observations(
        self, demo: Any, steps: int, metadata: dict[str, JsonScalar], where: str
    ) -> dict[str, np.ndarray]:
        """T rows of obs and the last of next_obs; pictures with their channels first."""
        group = self._data(demo, "obs", where)
        after = demo.get("next_obs")
        observations = {}
        for name in sorted(group):
            values = np.asarray(group[name])
            if len(values) != steps:
                raise DataError(f"{where}: obs '{name}': found {len(values)} rows, expected {steps}")
            if after is not None and name in after:
                if after[name].shape != values.shape:
                    raise DataError(
                        f"{where}: next_obs '{name}': found shape {list(after[name].shape)}, "
                        f"expected {list(values.shape)}"
                    )
                last = np.asarray(after[name][-1:])
            else:
                metadata[FINAL_OBSERVATION] = "repeated"
                last = values[-1:]
            values = np.concatenate([values, last])
            if values.ndim == 4 and values.dtype == np.uint8 and values.shape[-1] in (1, 3, 4):
                values = np.ascontiguousarray(np.moveaxis(values, -1, 1))
            observations[name] = values
        if FINAL_OBSERVATION in metadata:
            self.losses.count("{} episodes have no observation after their last action: the last one stands there")
        return observations

    def _bounds(self, data: Any) -> dict[str, Any]:
        """One pass over the actions alone."""
        inside, shape = True, None
        for name in self._demos:
            actions = self._data(data[name], "actions", f"{self._path}, {name}")
            shape = tuple(actions.shape[1:]) if shape is None else shape
            inside = inside and bool((np.abs(np.asarray(actions)) <= 1).all())
        if shape is None:
            raise DataError(f"{self._path}: found 0 episodes in 'data', expected at least 1")
        bound: float | str = 1.0 if inside else "inf"
        low: float | str = -1.0 if inside else "-inf"
        return {"type": "box", "low": low, "high": bound, "shape": list(shape), "dtype": "float32"}

    def _environment(self, text: Any) -> dict[str, Any] | None:
        if text is None:
            return None
        try:
            described = json.loads(text)
            return {"id": str(described["env_name"]), "kwargs": {}, "robomimic": described}
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self._path}: env_args: found {text!r:.100}, expected JSON with 'env_name'") from error

    def _read_masks(self, file: Any) -> dict[str, set[str]]:
        if "mask" not in file:
            return {}
        return {
            name: {member.decode() if isinstance(member, bytes) else str(member) for member in np.ravel(members[()])}
            for name, members in file["mask"].items()
        }

    def _data(self, demo: Any, key: str, where: str) -> Any:
        if key not in demo:
            raise DataError(f"{where}: found no '{key}', expected one in every episode")
        return demo[key]


def _number(name: str) -> tuple[int, str]:
    match = re.search(r"(\d{1,18})$", name)
    return (int(match[1]) if match else -1, name)


def _language(demo: Any) -> str:
    """The sentence of the episode, where there is one (`ep_meta` is JSON with "lang")."""
    try:
        described = json.loads(demo.attrs.get("ep_meta", "{}"))
    except (ValueError, TypeError):
        return ""
    return str(described.get("lang") or "") if isinstance(described, dict) else ""
