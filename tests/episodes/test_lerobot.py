"""LeRobotDataset v3 both ways. `data/lerobot_v3` was written by the genuine package (see tests/interop)."""

from __future__ import annotations

import json
import os
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, convert, open_source
from qseq.episodes.codings import picture_layout
from qseq.episodes.formats.lerobot_features import columns_of
from qseq.episodes.formats.video import FilmWriter, psnr
from qseq.episodes.schema import FieldSpec
from qseq.episodes.sources import parse_source
from qseq.errors import RequestError

from .builders import BOX, assert_same, make_store
from .lerobot_builders import NAMES, camera_episode, make_camera_store

pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

GENUINE = Path(__file__).parent / "data" / "lerobot_v3"
BESIDE = "the observation after each last action is in meta/qseq_episodes: the lerobot package does not see it"


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "0")
    monkeypatch.setenv("QSEQ_CACHE", str(tmp_path / "cache"))


def genuine_copy(tmp_path: Path) -> Path:
    return shutil.copytree(GENUINE, tmp_path / "l")


def change_info(root: Path, **changes: Any) -> None:
    path = root / "meta" / "info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def rewrite(path: Path, change: Any) -> None:
    """Replace a Parquet file by what `change` makes of its table."""
    parquet.write_table(change(parquet.read_table(path)), path)


def test_what_the_genuine_package_wrote(tmp_path: Path) -> None:
    done = convert(f"lerobot:{GENUINE}", str(tmp_path / "s"))
    assert (done.episodes, done.steps) == (3, 18)
    assert done.notes == [
        "3 episodes have no observation after their last action: the last one stands there",
        "3 episodes are done and do not say whether by a time limit: kept as terminated",
    ]
    store = EpisodeStore.open(tmp_path / "s")
    store.verify()
    assert store.schema.fields == {
        "front": ("uint8", (3, 64, 64)),
        "grid": ("float32", (2, 3)),
        "state": ("float32", (3,)),
        "wrist": ("uint8", (3, 64, 64)),
    }
    assert store.schema.dimension_names == {"state": ["x", "y", "z"], "action": ["dx", "dy"]}
    assert store.schema.space.low.tolist() == [-np.inf, -np.inf]  # LeRobot keeps no bounds
    assert store.success.tolist() == [1, 0, 1]
    assert store.terminated.tolist() == [True, True, True]
    assert [store.episode(i).instruction for i in range(3)] == ["task 0", "task 1", "task 0"]
    for index in range(3):
        episode, steps = store.episode(index), 5 + index
        order = np.minimum(np.arange(steps + 1), steps - 1)  # the last observation twice
        expected = np.stack([np.full(steps + 1, index), order, np.full(steps + 1, 0.5)], 1)
        np.testing.assert_array_equal(episode.observations["state"], expected.astype(np.float32))
        pictures = np.full((steps + 1, 3, 64, 64), 40 * index, np.uint8)
        for row, step in enumerate(order):
            pictures[row, :, 4 * step : 4 * step + 8] = 200
        np.testing.assert_array_equal(episode.observations["wrist"], pictures)  # PNG: exact
        assert psnr(episode.observations["front"], pictures) > 35  # a film, each frame where it belongs
        np.testing.assert_array_equal(episode.rewards, np.arange(steps) == steps - 1)
        np.testing.assert_array_equal(episode.actions[:, 0], np.arange(steps, dtype=np.float32) / np.float32(10))
        assert episode.metadata == {"fps": 10, "final_observation": "repeated"}


def test_round_trip_in_png_is_exact(tmp_path: Path) -> None:
    store = make_camera_store(tmp_path / "s", episodes=9)
    done = convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}", images="png")
    assert done.notes == [
        "the frame rate is not known: written as 10 frames a second (say --fps)",
        "3 episodes do not say whether they succeeded: next.success is false in them",
        "field 'camera/front': written as PNG, exact",
        BESIDE,
    ]
    assert convert(f"lerobot:{tmp_path / 'l'}", str(tmp_path / "back")).notes == []
    back = EpisodeStore.open(tmp_path / "back")
    assert back.schema == store.schema
    assert back.schema.dimension_names == NAMES
    for index in range(9):
        assert_same(back.episode(index), store.episode(index))


def test_round_trip_in_video_is_exact_but_for_the_films(tmp_path: Path) -> None:
    store = make_camera_store(tmp_path / "s", episodes=9)
    notes = convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}").notes
    (told,) = [note for note in notes if "PSNR" in note]
    assert float(told.split()[-2]) > 30
    back = open_source(f"lerobot:{tmp_path / 'l'}")
    for index in range(9):
        found, expected = back.episode(index), store.episode(index)
        film, frames = found.observations.pop("camera/front"), expected.observations.pop("camera/front")
        assert_same(found, expected)
        assert psnr(film[:-1], frames[:-1]) > 30
        np.testing.assert_array_equal(film[-1], frames[-1])  # beside the film, as PNG


@pytest.mark.parametrize(
    "space",
    [
        {"type": "discrete", "n": 4, "start": 1},
        {"type": "multi_discrete", "nvec": [3, 2]},
        {"type": "box", "low": -1, "high": 1, "shape": [2, 3]},
        {"type": "box", "low": 0, "high": 9, "shape": [], "dtype": "int32"},
    ],
)
def test_every_action_space_comes_back(tmp_path: Path, space: dict[str, Any]) -> None:
    from qseq.episodes import ActionSpace, StoreWriter

    parsed = ActionSpace.from_json(space)
    actions = np.broadcast_to(parsed.high, (4, *parsed.shape)).astype(parsed.dtype)
    with StoreWriter(tmp_path / "s", action_space=space) as writer:
        writer.add(camera_episode(4, 0, actions=actions, observations={"state": np.zeros((5, 1), np.float32)}))
    convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}")
    convert(f"lerobot:{tmp_path / 'l'}", str(tmp_path / "t"))
    before, after = EpisodeStore.open(tmp_path / "s"), EpisodeStore.open(tmp_path / "t")
    assert after.schema == before.schema
    assert_same(after.episode(0), before.episode(0))


def test_without_our_files_it_is_anybodys_data_set(tmp_path: Path) -> None:
    """Success, ends, rewards, tasks and names are in LeRobot's own columns; only what it cannot hold is lost."""
    store = make_camera_store(tmp_path / "s", episodes=6)
    convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}", fps=25, images="png")
    (tmp_path / "l" / "meta" / "qseq.json").unlink()
    shutil.rmtree(tmp_path / "l" / "meta" / "qseq_episodes")
    notes = convert(f"lerobot:{tmp_path / 'l'}", str(tmp_path / "t")).notes
    assert notes == ["6 episodes have no observation after their last action: the last one stands there"]
    found = EpisodeStore.open(tmp_path / "t")
    assert found.terminated.tolist() == store.terminated.tolist()
    assert found.truncated.tolist() == store.truncated.tolist()
    assert found.success.tolist() == [int(value == 1) for value in store.success]  # unknown is false
    for index in range(6):
        here, there = found.episode(index), store.episode(index)
        np.testing.assert_array_equal(here.rewards, there.rewards)
        np.testing.assert_array_equal(here.actions, there.actions)
        np.testing.assert_array_equal(here.observations["state"][:-1], there.observations["state"][:-1])
        np.testing.assert_array_equal(here.observations["camera.front"][:-1], there.observations["camera/front"][:-1])
        np.testing.assert_array_equal(here.observations["flag"][:-1, 0], there.observations["flag"][:-1])
        assert here.instruction == there.instruction
        assert here.metadata["fps"] == 25


def test_an_episode_that_lerobot_changed_is_read_as_anybodys(tmp_path: Path) -> None:
    """The row beside it no longer fits: nothing of it may be used."""
    make_store(tmp_path / "s", [4, 3])
    root = tmp_path / "l"
    convert(str(tmp_path / "s"), f"lerobot:{root}")
    beside = root / "meta" / "qseq_episodes" / "chunk-000" / "file-000.parquet"
    rewrite(beside, lambda table: table.set_column(1, "length", pyarrow.array([4, 7])))
    notes = convert(f"lerobot:{root}", str(tmp_path / "t")).notes
    assert "1 episodes have no observation after their last action: the last one stands there" in notes
    assert "final_observation" not in EpisodeStore.open(tmp_path / "t").metadata[0]
    assert EpisodeStore.open(tmp_path / "t").metadata[1]["final_observation"] == "repeated"


def test_the_frame_rate(tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", episodes=3, metadata={"fps": 15})
    for name, fps, expected in (("known", None, 15), ("said", 12.5, 12.5)):
        convert(str(tmp_path / "s"), f"lerobot:{tmp_path / name}", fps=fps)
        assert json.loads((tmp_path / name / "meta" / "info.json").read_text())["fps"] == expected
        back = open_source(f"lerobot:{tmp_path / name}")
        assert back.metadata[0]["fps"] == expected
    with pytest.raises(RequestError, match="fps: found -3"):
        convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'x'}", fps=-3)
    with pytest.raises(RequestError, match="for LeRobot data sets only"):
        convert(str(tmp_path / "s"), str(tmp_path / "x"), fps=3)


def test_the_robot(tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", episodes=2, metadata={"robot_type": "so100", "fps": 10})
    root = tmp_path / "l"
    convert(str(tmp_path / "s"), f"lerobot:{root}")
    assert json.loads((root / "meta" / "info.json").read_text())["robot_type"] == "so100"
    (root / "meta" / "qseq.json").unlink()
    assert open_source(f"lerobot:{root}").metadata[1]["robot_type"] == "so100"


def test_dropped_frames_are_counted(tmp_path: Path) -> None:
    root = genuine_copy(tmp_path)
    change_info(
        root,
        features={
            k: v
            for k, v in json.loads((root / "meta/info.json").read_text())["features"].items()
            if k != "observation.images.front"
        },
    )

    def delay(table: Any) -> Any:
        times = table.column("timestamp").to_numpy().copy()
        times[3:5] += 0.2  # two frames missing before the fourth of the first episode
        return table.set_column(table.schema.get_field_index("timestamp"), "timestamp", pyarrow.array(times))

    rewrite(root / "data/chunk-000/file-000.parquet", delay)
    store = open_source(f"lerobot:{root}")
    assert [metadata.get("dropped_frames", 0) for metadata in store.metadata] == [2, 0, 0]


def test_many_parts_and_a_film_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qseq.episodes.formats.lerobot_part.MOST_FRAMES", 7)
    monkeypatch.setattr("qseq.episodes.formats.lerobot_layout.FILES_A_CHUNK", 2)
    monkeypatch.setattr("qseq.episodes.formats.lerobot_part.FILES_A_CHUNK", 2)
    store = make_camera_store(tmp_path / "s", episodes=11)
    convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}")
    films = sorted((tmp_path / "l" / "videos").rglob("*.mp4"))
    assert len(films) == len(list((tmp_path / "l" / "data").rglob("*.parquet"))) > 4
    back = open_source(f"lerobot:{tmp_path / 'l'}")
    for index in range(11):
        found, expected = back.episode(index), store.episode(index)
        assert psnr(found.observations.pop("camera/front"), expected.observations.pop("camera/front")) > 30
        assert_same(found, expected)


def test_features_that_hold_no_numbers_are_named(tmp_path: Path) -> None:
    root = genuine_copy(tmp_path)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["caption"] = {"dtype": "string", "shape": [1], "names": None}
    features["other.torque"] = {"dtype": "float32", "shape": [2], "names": None}
    change_info(root, features=features)
    notes = convert(f"lerobot:{root}", str(tmp_path / "s")).notes
    assert notes[0] == "features not kept: caption, other.torque"


def test_wrong_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "s", [3])
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    assert parse_source("lerobot:lerobot/pusht").repository == "lerobot/pusht"
    assert parse_source("lerobot:./lerobot/pusht").repository == ""
    for source, message in (
        (f"lerobot:{tmp_path / 'absent'}", "is not a LeRobot data set: found no meta/info.json"),
        ("lerobot:nobody/nothing", "found no folder of that name, and the hub's data set cannot be fetched"),
    ):
        with pytest.raises(RequestError, match=message):
            convert(source, str(tmp_path / "t"))
    old = genuine_copy(tmp_path)
    change_info(old, codebase_version="v2.1")
    with pytest.raises(RequestError, match=r"found codebase_version v2\.1, expected v3\.0"):
        convert(f"lerobot:{old}", str(tmp_path / "t"))
    assert not list(tmp_path.glob(".*"))
    assert not (tmp_path / "t").exists()


def test_what_is_a_picture() -> None:
    shapes = {(3, 64, 64): "first", (64, 64, 3): "last", (4, 5, 3): "last", (1, 8, 8): "first", (9, 8, 8): None}
    for shape, layout in shapes.items():
        assert picture_layout(FieldSpec("uint8", shape)) == layout
    assert picture_layout(FieldSpec("float32", (3, 64, 64))) is None


def test_films_hold_colour_and_even_sides_only(tmp_path: Path) -> None:
    from qseq.episodes import StoreSchema

    fields = {
        "odd": FieldSpec("uint8", (3, 63, 64)),
        "grey": FieldSpec("uint8", (1, 64, 64)),
        "a/b": FieldSpec("uint8", (3, 64, 64)),
        "a.b": FieldSpec("uint8", (3, 64, 64)),
    }
    columns = columns_of(StoreSchema(fields, BOX), "video")
    assert {column.field: column.kind for column in columns} == {
        "odd": "image",
        "grey": "image",
        "a/b": "video",
        "a.b": "video",
        "action": "numbers",
    }
    assert len({column.key for column in columns}) == 5


@pytest.mark.parametrize("first", [1, 4, 8])
def test_reading_begins_anywhere(tmp_path: Path, first: int) -> None:
    """As a conversion that goes on does: the right frames of the right film."""
    from qseq.episodes.formats.lerobot import LeRobotReader

    store = make_camera_store(tmp_path / "s", episodes=9)
    convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}")
    whole = list(LeRobotReader(tmp_path / "l").episodes())
    rest = list(LeRobotReader(tmp_path / "l").episodes(first))
    assert len(rest) == store.num_episodes - first
    for found, expected in zip(rest, whole[first:], strict=True):
        assert_same(found, expected)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux tells what priority threads have")
def test_filming_takes_no_priority_over_others(tmp_path: Path) -> None:
    """SVT-AV1 gives its threads, and the one that opens it, real-time priority where it may."""
    before = os.sched_getscheduler(0)
    film = FilmWriter(tmp_path / "film.mp4", Fraction(20), 64, 64)
    for value in (0, 100):
        film.add(np.full((64, 64, 3), value, np.uint8))
    policies = {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}
    film.close()
    assert policies == {before}


def test_grey_films(tmp_path: Path) -> None:
    """We write none; others do, of depth."""
    root = genuine_copy(tmp_path)
    features = json.loads((root / "meta/info.json").read_text())["features"]
    features["observation.images.front"]["shape"] = [64, 64, 1]
    change_info(root, features=features)
    convert(f"lerobot:{root}", str(tmp_path / "s"))
    assert EpisodeStore.open(tmp_path / "s").episode(0).observations["front"].shape == (6, 1, 64, 64)


def test_ranks_that_ask_at_once_wait_for_one_conversion(tmp_path: Path) -> None:
    import subprocess
    import sys

    code = "import sys; from qseq.episodes import open_source; print(open_source(sys.argv[1]).num_episodes)"
    command = [sys.executable, "-c", code, f"lerobot:{GENUINE}"]
    ranks = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [rank.communicate()[0].strip() for rank in ranks] == ["3"] * 3
    assert len([path for path in (tmp_path / "cache").iterdir() if path.is_dir()]) == 1


def test_psnr() -> None:
    """Of the farthest pictures: 0 dB, also where the sum of squares is beyond 32 bits."""
    black, white = np.zeros((2, 3, 240, 240), np.uint8), np.full((2, 3, 240, 240), 255, np.uint8)
    assert psnr(black, white) == 0
    assert psnr(black, black) == np.inf
    assert psnr(black, black + np.uint8(1)) == pytest.approx(20 * np.log10(255))
