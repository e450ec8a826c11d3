"""Minari both ways, with the real package."""

from __future__ import annotations

import builtins
import os
import string
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from qseq.episodes import EpisodeStore, StoreWriter, convert, open_source
from qseq.episodes.formats.minari_writer import write_minari
from qseq.episodes.sources import parse_source
from qseq.errors import DataError, RequestError

from .builders import BOX, assert_same, contents, make_episode, make_store

minari = pytest.importorskip("minari")
pytest.importorskip("h5py")
from minari.data_collector import EpisodeBuffer  # noqa: E402


@pytest.fixture(autouse=True)
def _no_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be written to the user's own folders."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("QSEQ_PROGRESS", "0")
    monkeypatch.delenv("MINARI_DATASETS_PATH", raising=False)


def create(root: Path, dataset_id: str, buffers: list[dict[str, Any]], **spaces: Any) -> Path:
    """A data set made by Minari alone."""
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    try:
        minari.create_dataset_from_buffers(dataset_id, [EpisodeBuffer(**b) for b in buffers], **spaces)
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
    return root / dataset_id


def import_minari(folder: Path, destination: Path) -> list[str]:
    return convert(f"minari:{folder}", str(destination)).notes


def buffer(steps: int, **changes: Any) -> dict[str, Any]:
    last = np.arange(steps) == steps - 1
    parts = {
        "observations": np.random.default_rng(steps).normal(size=(steps + 1, 3)),
        "actions": np.zeros((steps, 2), np.float32),
        "rewards": last.astype(float),
        "terminations": last,
        "truncations": last & False,
        "infos": {},
    }
    return parts | changes


STATE = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
ACTION = gym.spaces.Box(-1, 1, (2,), np.float32)


@pytest.mark.filterwarnings("ignore")
def test_import_of_a_plain_box(tmp_path: Path) -> None:
    buffers = [
        buffer(4, infos={"success": np.array([0, 0, 1, 0, 0]), "energy": np.ones(5)}, seed=11),
        buffer(2, infos={"success": np.zeros(3, bool), "energy": np.ones(3)}, actions=np.full((2, 2), 1.5, np.float32)),
        buffer(3, terminations=np.zeros(3, bool), truncations=np.arange(3) == 2),
    ]
    folder = create(tmp_path, "plain-v0", buffers, observation_space=STATE, action_space=ACTION)
    notes = import_minari(folder, tmp_path / "s")
    assert notes == ["infos not kept: energy", "2 actions were outside the action space's bounds: clipped to them"]
    store = EpisodeStore.open(tmp_path / "s")
    assert store.schema.fields == {"state": ("float32", (3,))}
    assert store.success.tolist() == [1, 0, -1]
    assert store.terminated.tolist() == [True, True, False]
    assert store.truncated.tolist() == [False, False, True]
    assert store.episode(0).metadata["seed"] == 11
    for index, expected in enumerate(buffers):
        np.testing.assert_array_equal(
            store.episode(index).observations["state"], expected["observations"].astype(np.float32)
        )
        np.testing.assert_array_equal(store.episode(index).rewards, expected["rewards"])
    store.verify()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("space", "actions"),
    [
        (gym.spaces.Discrete(4, start=1), np.array([1, 4, 2])),
        (gym.spaces.MultiDiscrete([3, 2]), np.array([[0, 1], [2, 0], [1, 1]])),
        (gym.spaces.MultiBinary(2), np.array([[0, 1], [1, 0], [1, 1]], np.int8)),
    ],
)
def test_import_of_dictionaries_images_and_text(tmp_path: Path, space: gym.Space, actions: np.ndarray) -> None:
    image = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    observations = {
        "image": image,
        "robot": {"arm": np.ones((4, 2)), "gripper": np.zeros((4, 1), np.float32)},
        "direction": np.array([0, 1, 2, 3]),
        "mission": ["open the door"] * 4,
    }
    spaces = gym.spaces.Dict(
        {
            "image": gym.spaces.Box(0, 255, (40, 40, 3), np.uint8),
            "robot": gym.spaces.Dict(
                {
                    "arm": gym.spaces.Box(-1, 1, (2,), np.float64),
                    "gripper": gym.spaces.Box(-1, 1, (1,), np.float32),
                }
            ),
            "direction": gym.spaces.Discrete(4),
            "mission": gym.spaces.Text(64),
        }
    )
    folder = create(
        tmp_path,
        "doors/grid-v1",
        [buffer(3, observations=observations, actions=actions)],
        observation_space=spaces,
        action_space=space,
        jpeg_encoding=False,
    )
    store = open_source(f"minari:{folder}", cache=tmp_path / "cache")
    episode = store.episode(0)
    assert set(episode.observations) == {"image", "robot/arm", "robot/gripper", "direction"}
    np.testing.assert_array_equal(episode.observations["image"], image)
    assert episode.observations["image"].dtype == np.uint8
    np.testing.assert_array_equal(episode.actions, actions)
    assert episode.instruction == "open the door"
    # The second time it is found, not converted: the same files.
    before = contents(tmp_path / "cache")
    assert open_source(f"minari:{folder}", cache=tmp_path / "cache").path == store.path
    assert contents(tmp_path / "cache") == before


@pytest.mark.parametrize("dataset_id", ["mixed-v0", "robots/push/mixed-v0"])
def test_round_trip(tmp_path: Path, dataset_id: str) -> None:
    path = tmp_path / "s"
    with StoreWriter(path, action_space=BOX, env={"id": "Push-v0", "kwargs": {"size": 3}}) as writer:
        writer.extend(make_episode(1 + index % 7, index) for index in range(70))  # more than are held at a time
    store = EpisodeStore.open(path)
    root = tmp_path / "minari"
    assert write_minari(store, dataset_id, root) == []
    os.environ["MINARI_DATASETS_PATH"] = str(root)
    dataset = minari.load_dataset(dataset_id)
    del os.environ["MINARI_DATASETS_PATH"]
    assert (dataset.total_episodes, dataset.total_steps) == (70, store.num_steps)
    np.testing.assert_array_equal(
        dataset[5].observations["camera"]["front"], make_episode(6, 5).observations["camera/front"]
    )
    assert dataset.action_space == gym.spaces.Box(-1, 1, (2,), np.float32)
    assert import_minari(root / dataset_id, tmp_path / "back") == []
    back = EpisodeStore.open(tmp_path / "back")
    assert back.schema == store.schema
    for index in range(70):
        assert_same(back.episode(index), store.episode(index))
    with pytest.raises(RequestError, match="exists already"):
        write_minari(store, dataset_id, root)
    assert not (tmp_path / "home").exists()
    assert not [p for p in root.iterdir() if p.name.startswith(".")]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("data_format", ["hdf5", "arrow"])
def test_both_of_minaris_formats(tmp_path: Path, data_format: str) -> None:
    """Nested dictionaries, pictures, missions, infos."""
    pixels = np.random.default_rng(0).integers(0, 256, (4, 40, 40, 3), dtype=np.uint8)
    space = gym.spaces.Dict(
        {
            "image": gym.spaces.Box(0, 255, (40, 40, 3), np.uint8),
            "robot": gym.spaces.Dict({"arm": gym.spaces.Box(-1, 1, (2,), np.float32)}),
            "direction": gym.spaces.Discrete(4),
            "mission": gym.spaces.Text(256, charset=string.printable),
        }
    )
    observations = {
        "image": pixels,
        "robot": {"arm": np.linspace(-1, 1, 8, dtype=np.float32).reshape(4, 2)},
        "direction": np.array([0, 1, 2, 3]),
        "mission": ["go to red"] * 4,
    }
    reached = np.array([[0], [0], [0], [1]])
    folder = create(
        tmp_path,
        "grid-v0",
        [buffer(3, observations=observations, infos=infos) for infos in ({"is_success": reached}, {})],
        observation_space=space,
        action_space=ACTION,
        data_format=data_format,
        jpeg_encoding=False,
    )
    assert import_minari(folder, tmp_path / "s") == []
    store = EpisodeStore.open(tmp_path / "s")
    store.verify()
    assert store.success.tolist() == [1, -1]
    assert store.instructions == ["go to red"]
    episode = store.episode(1)
    np.testing.assert_array_equal(episode.observations["image"], pixels)
    np.testing.assert_array_equal(episode.observations["robot/arm"], observations["robot"]["arm"])
    np.testing.assert_array_equal(np.ravel(episode.observations["direction"]), [0, 1, 2, 3])


@pytest.mark.filterwarnings("ignore")
def test_what_minari_cannot_read_back(tmp_path: Path) -> None:
    single = buffer(3, infos={"success": np.array([0, 0, 0, 1])})
    folder = create(tmp_path, "a-v0", [single], observation_space=STATE, action_space=ACTION, data_format="arrow")
    with pytest.raises(DataError, match="a-v0, episode 0: minari cannot read it"):
        import_minari(folder, tmp_path / "s")


@pytest.mark.filterwarnings("ignore")
def test_pictures_that_minari_keeps_as_jpeg(tmp_path: Path) -> None:
    ramp = (np.arange(64)[:, None] + np.arange(64) + np.zeros((4, 1, 1))).astype(np.uint8)
    pixels = np.repeat(ramp[..., None], 3, axis=-1)
    folder = create(
        tmp_path,
        "jpeg-v0",
        [buffer(3, observations=pixels)],
        observation_space=gym.spaces.Box(0, 255, (64, 64, 3), np.uint8),
        action_space=ACTION,
        jpeg_encoding=True,
    )
    import_minari(folder, tmp_path / "s")
    found = EpisodeStore.open(tmp_path / "s").episode(0).observations["state"]
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).max() < 8


def test_what_minari_has_no_place_for_comes_back(tmp_path: Path) -> None:
    """Booleans, names of dimensions, metadata without a value, an episode without instruction or success."""
    names = {"state": ["x", "y", "z"]}
    flags = {"state": np.zeros((4, 3), np.float32), "touch": np.array([[True], [False], [True], [True]])}
    with StoreWriter(tmp_path / "s", action_space=BOX, dimension_names=names) as writer:
        writer.add(make_episode(3, 0, observations=flags, instruction="", metadata={"a": None, "b/c": 1}))
    notes = convert(str(tmp_path / "s"), f"minari:{tmp_path / 'root' / 'a-v0'}").notes
    assert notes == ["field 'touch': booleans were written as uint8"]
    convert(f"minari:{tmp_path / 'root' / 'a-v0'}", str(tmp_path / "t"))
    before, after = EpisodeStore.open(tmp_path / "s"), EpisodeStore.open(tmp_path / "t")
    assert after.schema == before.schema
    assert_same(after.episode(0), before.episode(0))


def test_a_failed_export_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = make_store(tmp_path / "s", [3])
    monkeypatch.setattr(store, "episode", lambda index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_minari(store, "a-v0", tmp_path / "root")
    assert list((tmp_path / "root").iterdir()) == []
    with pytest.raises(RequestError, match="is not a Minari id"):
        write_minari(store, "no version", tmp_path / "root")


def test_convert(tmp_path: Path) -> None:
    store = make_store(tmp_path / "s", [3, 2])
    done = convert(f"store:{tmp_path / 's'}", f"minari:{tmp_path / 'root' / 'two-v0'}")
    assert (done.episodes, done.steps, done.notes) == (2, 5, [])
    done = convert(f"minari:{tmp_path / 'root' / 'two-v0'}", str(tmp_path / "t"))
    assert (done.episodes, done.steps, done.notes) == (2, 5, [])
    convert(str(tmp_path / "t"), f"store:{tmp_path / 'u'}")
    for path in ("t", "u"):
        copy = EpisodeStore.open(tmp_path / path)
        copy.verify()
        for index in range(2):
            assert_same(copy.episode(index), store.episode(index))
    with pytest.raises(RequestError, match="exists already"):
        convert(str(tmp_path / "t"), str(tmp_path / "u"))
    with pytest.raises(DataError, match="not an episode store"):
        convert(str(tmp_path / "missing"), str(tmp_path / "v"))
    with pytest.raises(RequestError, match="not a Minari data set"):
        convert(f"minari:{tmp_path / 'missing-v0'}", str(tmp_path / "v"))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["root", "s", "t", "u"]


def test_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    assert parse_source("minari:D4RL/door/human-v2").path == tmp_path / "D4RL/door/human-v2"
    assert parse_source("minari:/data/a-v0").root == Path("/data")
    assert parse_source("runs/push").path == parse_source("store:runs/push").path == Path("runs/push")
    for name in ("rlds:a/b", "store:", ""):
        with pytest.raises(RequestError, match="expected 'store:DIR'"):
            parse_source(name)


def test_minari_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any) -> Any:
        if name == "minari":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(RequestError, match=r'pip install "qseq\[minari\]"'):
        open_source(f"minari:{tmp_path}/a-v0", cache=tmp_path / "cache")
