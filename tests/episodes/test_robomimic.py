"""robomimic files in their published layout: data/demo_i/{obs, next_obs, actions, rewards, dones}, mask, env_args."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, convert
from qseq.errors import DataError, RequestError

h5py = pytest.importorskip("h5py")

ENV_ARGS = {"env_name": "Lift", "env_version": "1.5.1", "type": 1, "env_kwargs": {"robots": ["Panda"]}}


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "0")


def write(path: Path, demos: int = 12, *, next_obs: bool = True, scale: float = 1.0, **changes: Any) -> Path:
    """A file as robomimic's dataset scripts write it; demo i has 4 + i steps, and every third one fails."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps(ENV_ARGS)
        data.attrs["total"] = sum(4 + i for i in range(demos))
        for index in range(demos):
            steps = 4 + index
            demo = data.create_group(f"demo_{index}")
            demo.attrs["num_samples"] = steps
            demo.attrs["model_file"] = "<mujoco/>"
            seen = {
                "object": (index * 100 + np.arange(steps + 1)[:, None] + np.zeros(10)).astype(np.float64),
                "agentview_image": np.full((steps + 1, 8, 10, 3), index, np.uint8)
                + np.arange(steps + 1, dtype=np.uint8)[:, None, None, None],
            }
            for name, values in seen.items():
                demo.create_dataset(f"obs/{name}", data=values[:-1], compression="gzip")
                if next_obs:
                    demo.create_dataset(f"next_obs/{name}", data=values[1:], compression="gzip")
            demo["actions"] = scale * np.linspace(-1, 1, steps * 7).reshape(steps, 7)
            last = np.arange(steps) == steps - 1
            parts = {"rewards": (last & (index % 3 != 0)).astype(float), "dones": last.astype(np.int64)} | changes
            for name, values in parts.items():
                demo[name] = values(steps) if callable(values) else values
            demo["states"] = np.zeros((steps, 32))
        names = [f"demo_{index}".encode() for index in range(demos)]
        file["mask/train"] = np.array(names[:-2])
        file["mask/valid"] = np.array(names[-2:])
    return path


def test_the_published_layout(tmp_path: Path) -> None:
    done = convert(f"robomimic:{write(tmp_path / 'lift.hdf5')}", str(tmp_path / "s"))
    assert done.notes == ["data not kept: model_file, states"]
    store = EpisodeStore.open(tmp_path / "s")
    store.verify()
    assert store.lengths.tolist() == [4 + index for index in range(12)]  # demo_10 comes after demo_9
    assert store.schema.env == {"id": "Lift", "kwargs": {}, "robomimic": ENV_ARGS}
    assert store.schema.fields == {"agentview_image": ("uint8", (3, 8, 10)), "object": ("float32", (10,))}
    assert store.schema.space.low.tolist() == [-1.0] * 7
    for index in range(12):
        episode, steps = store.episode(index), 4 + index
        np.testing.assert_array_equal(episode.observations["object"][:, 0], index * 100 + np.arange(steps + 1))
        np.testing.assert_array_equal(episode.observations["agentview_image"][:, 2, 5, 5], index + np.arange(steps + 1))
        np.testing.assert_allclose(episode.actions.ravel(), np.linspace(-1, 1, steps * 7), rtol=1e-6)
        assert episode.success == (index % 3 != 0)
        assert (episode.terminated, episode.truncated) == (episode.success, not episode.success)
        split = "mask/valid" if index >= 10 else "mask/train"
        assert episode.metadata == {"demo": f"demo_{index}", split: True}


def test_what_is_not_said(tmp_path: Path) -> None:
    """No next_obs, shaped rewards, actions beyond [-1, 1]."""
    path = write(tmp_path / "a.hdf5", 2, next_obs=False, scale=3.0, rewards=lambda steps: np.full(steps, 0.3))
    notes = convert(f"robomimic:{path}", str(tmp_path / "s")).notes
    assert notes[-1] == "2 episodes have no observation after their last action: the last one stands there"
    store = EpisodeStore.open(tmp_path / "s")
    assert store.success.tolist() == [-1, -1]
    assert store.terminated.all()  # nothing says that the ends were time limits
    assert np.isinf(store.schema.space.low).all()
    episode = store.episode(0)
    np.testing.assert_array_equal(episode.observations["object"][-1], episode.observations["object"][-2])
    assert episode.metadata["final_observation"] == "repeated"


def test_language(tmp_path: Path) -> None:
    path = write(tmp_path / "a.hdf5", 2)
    with h5py.File(path, "r+") as file:
        file["data/demo_1"].attrs["ep_meta"] = json.dumps({"lang": "lift the cube"})
    convert(f"robomimic:{path}", str(tmp_path / "s"))
    store = EpisodeStore.open(tmp_path / "s")
    assert [store.episode(i).instruction for i in range(2)] == ["", "lift the cube"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("data"), "found no group 'data'"),
        (lambda file: file["data/demo_1"].__delitem__("actions"), "demo_1: found no 'actions'"),
        (lambda file: file["data/demo_1"].__delitem__("obs"), "demo_1: found no 'obs'"),
        (lambda file: file["data"].attrs.__setitem__("env_args", "{"), "env_args: found"),
        (lambda file: file["data/demo_1/actions"].__setitem__((2, 3), np.nan), "episode 1: field 'action', step 2"),
    ],
)
def test_damaged_files(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path / "a.hdf5", 2)
    with h5py.File(path, "r+") as file:
        change(file)
    with pytest.raises(DataError, match=message):
        convert(f"robomimic:{path}", str(tmp_path / "s"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.hdf5"]


def test_wrong_requests(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("not HDF5")
    with pytest.raises(DataError, match="is not an HDF5 file"):
        convert(f"robomimic:{tmp_path / 'text'}", str(tmp_path / "s"))
    with pytest.raises(RequestError, match="found no such file"):
        convert(f"robomimic:{tmp_path / 'absent'}", str(tmp_path / "s"))
    with pytest.raises(RequestError, match="robomimic data can be read only"):
        convert(str(tmp_path / "s"), f"robomimic:{tmp_path / 'x.hdf5'}")
