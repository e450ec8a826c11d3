"""Long copies: killed at any moment they go on, two at once are refused, and memory does not grow with the data."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, StoreWriter, conversion, convert, disk, open_source
from qseq.episodes.formats import lerobot_part
from qseq.errors import RequestError

from .builders import BOX, assert_same, make_episode, make_store
from .lerobot_builders import make_camera_store

pytest.importorskip("pyarrow")

# Each conversion runs in a process of its own that kills itself before the n-th flush or rename, and a second one goes
# on. Fewer episodes are held at a time than usual, so that there are many such moments.
KILL = """
import json, os, signal, sys
import av, h5py, pyarrow.parquet
from pathlib import Path
from PIL import Image
from qseq.episodes import convert, writer
from qseq.episodes.formats import lerobot, lerobot_part, lerobot_writer, robomimic

source, kind, folder, options, stride = *sys.argv[1:4], json.loads(sys.argv[4]), int(sys.argv[5])
writer._GROUP_EPISODES = 3
lerobot_part.MOST_FRAMES = 9

def child(work):
    process = os.fork()
    if process == 0:
        try:
            work()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            os._exit(1)
    return os.waitpid(process, 0)[1]

def killed(moment):
    left = [moment]
    def before(function):
        def wrapped(*arguments, **named):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **named)
        return wrapped
    os.fsync, os.rename, Path.rename = before(os.fsync), before(os.rename), before(Path.rename)
    convert(source, f"{kind}:{folder}/{moment}", **options)

def resumed(moment):
    done = convert(source, f"{kind}:{folder}/{moment}", **options)
    Path(f"{folder}/{moment}.notes").write_text(json.dumps(done.notes))

moment = 1
while (status := child(lambda: killed(moment))) != 0:  # until it is through before the moment comes
    assert os.WTERMSIG(status) == signal.SIGKILL, status
    if not Path(f"{folder}/{moment}").exists():  # it does after a kill that came after the last rename
        assert child(lambda: resumed(moment)) == 0, moment
    moment += stride
"""


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "0")


def kill_at_moments(source: str, kind: str, folder: Path, stride: int, **options: object) -> None:
    """Leaves `folder`/n: a conversion that was killed at moment n and went on, and its notes in `folder`/n.notes."""
    folder.mkdir()
    command = [sys.executable, "-c", KILL, source, kind, str(folder), json.dumps(options), str(stride)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(folder.glob("*.notes"))) > 5


def finished(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]


def test_killed_while_copying_into_a_store(tmp_path: Path) -> None:
    source = make_store(tmp_path / "s", [1 + index % 4 for index in range(14)])
    kill_at_moments(str(tmp_path / "s"), "store", tmp_path / "t", 2)
    for path in finished(tmp_path / "t"):
        copy = EpisodeStore.open(path)
        copy.verify()
        assert copy.num_episodes == 14
        for index in range(14):
            assert_same(copy.episode(index), source.episode(index))


def test_killed_while_reading_lerobot(tmp_path: Path) -> None:
    """What was lost is counted once an episode, however often an episode is read."""
    source = make_camera_store(tmp_path / "s", episodes=14)
    convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}", images="png")
    shutil.rmtree(tmp_path / "l" / "meta" / "qseq_episodes")
    expected = convert(f"lerobot:{tmp_path / 'l'}", str(tmp_path / "whole")).notes
    assert expected == ["14 episodes have no observation after their last action: the last one stands there"]
    kill_at_moments(f"lerobot:{tmp_path / 'l'}", "store", tmp_path / "t", 5)
    assert all(json.loads(path.read_text()) == expected for path in (tmp_path / "t").glob("*.notes"))
    for path in finished(tmp_path / "t"):
        copy = EpisodeStore.open(path)
        copy.verify()
        for index in range(14):
            np.testing.assert_array_equal(copy.episode(index).actions, source.episode(index).actions)


def test_killed_while_writing_lerobot(tmp_path: Path) -> None:
    source = make_camera_store(tmp_path / "s", episodes=10)
    kill_at_moments(str(tmp_path / "s"), "lerobot", tmp_path / "l", 4, images="png")
    for path in finished(tmp_path / "l"):
        copy = open_source(f"lerobot:{path}", cache=tmp_path / "cache")
        assert copy.num_episodes == 10
        for index in range(10):
            assert_same(copy.episode(index), source.episode(index))


def test_another_source_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "a", [2] * 5)
    make_store(tmp_path / "b", [3] * 4, first_seed=50)

    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(conversion, "replace_folder", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(str(tmp_path / "a"), str(tmp_path / "t"))
    assert (tmp_path / ".t.converting").is_dir()
    convert(str(tmp_path / "b"), str(tmp_path / "t"))
    assert not (tmp_path / ".t.converting").exists()
    copy = EpisodeStore.open(tmp_path / "t")
    assert copy.lengths.tolist() == [3] * 4
    assert_same(copy.episode(0), make_episode(3, 50))


def test_two_at_once(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [2])
    folder = tmp_path / ".t.converting"
    folder.mkdir()
    with disk.hold_lock(folder / "lock", "t"), pytest.raises(RequestError, match="another process is writing"):
        convert(str(tmp_path / "s"), str(tmp_path / "t"))
    assert folder.is_dir()  # it is not ours to remove
    convert(str(tmp_path / "s"), str(tmp_path / "t"))


@pytest.mark.parametrize("way", ["copy", "write lerobot", "read lerobot"])
def test_memory_is_flat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setattr("qseq.episodes.writer._GROUP_EPISODES", 4)
    monkeypatch.setattr(lerobot_part, "MOST_FRAMES", 100)

    def peak(episodes: int) -> int:
        source = str(tmp_path / f"s{episodes}")
        with StoreWriter(source, action_space=BOX) as writer:
            for index in range(episodes):
                observations = {"state": np.full((21, 2000), index, np.float32)}  # 168 kB an episode
                writer.add(make_episode(20, index, observations=observations))
        if way == "read lerobot":
            convert(source, f"lerobot:{source}-l")
            source = f"lerobot:{source}-l"
        destination = f"{'lerobot:' if way == 'write lerobot' else ''}{tmp_path / f't{episodes}'}"
        tracemalloc.start()
        convert(source, destination)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(4)  # imports and caches
    small, large = peak(20), peak(100)
    assert large < 1.15 * small + 100_000
    assert large < 60 * 168_000
