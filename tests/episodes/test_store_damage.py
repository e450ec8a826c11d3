"""Crashes, full disks and flipped bits: no episode is half there, and nothing damaged is taken for good."""

from __future__ import annotations

import errno
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, StoreWriter, disk
from qseq.errors import DataError, RequestError

from .builders import BOX, assert_same, contents, make_episode, make_store

WRITE_FOR_EVER = """
import sys
from episodes.builders import BOX, make_episode
from qseq.episodes import StoreWriter
with StoreWriter(sys.argv[1], action_space=BOX) as writer:
    while True:
        index = writer.num_episodes
        writer.add(make_episode(1 + index % 40, index))
        print(writer.num_episodes, flush=True)
"""


def test_killed_while_writing(tmp_path: Path) -> None:
    path = tmp_path / "s"
    chance = random.Random(0)
    finished = 0
    for _ in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITE_FOR_EVER, str(path)],
            cwd=Path(__file__).parents[1],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        process.stdout.readline()  # it has begun
        time.sleep(chance.uniform(0.0, 0.15))
        process.send_signal(signal.SIGKILL)
        finished = int([str(finished), *process.stdout.read().split()][-1])
        process.wait()
        process.stdout.close()
        store = EpisodeStore.open(path)
        assert store.num_episodes >= finished
        store.verify()
        for index in range(store.num_episodes):
            assert_same(store.episode(index), make_episode(1 + index % 40, index))
    assert finished > 5


def test_every_cut_of_the_last_episode(tmp_path: Path) -> None:
    """Whatever a killed writer left of an episode's files, the episodes before it are there and writing goes on."""
    path = tmp_path / "s"
    make_store(path, [3])
    before = contents(path)
    with StoreWriter(path) as writer:
        writer.add(make_episode(2, 1))
    after = contents(path)
    names = [name for name in after if after[name] != before[name]]
    log = "episodes.jsonl"
    for cut in range(len(before[log]), len(after[log])):
        (path / log).write_bytes(after[log][:cut])
        assert EpisodeStore.open(path).num_episodes == 1
    for name in names:
        (path / name).write_bytes(after[name][: (len(before[name]) + len(after[name])) // 2])
    EpisodeStore.open(path).verify()
    with StoreWriter(path) as writer:
        assert contents(path) == before
        writer.add(make_episode(2, 1))
    assert contents(path) == after


@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("after_writes", [0, 1, 3, 4])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: bool, after_writes: int) -> None:
    path = tmp_path / "s"
    make_store(path, [3, 4])
    before = contents(path)
    real, left = disk.write, [after_writes]

    def write(file: Any, data: Any) -> None:
        if left[0] == 0:
            real(file, memoryview(data).cast("B")[:5])
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1
        real(file, data)

    with StoreWriter(path) as writer:
        monkeypatch.setattr(disk, "write", write)
        with pytest.raises(RequestError, match="no space left on the disk") as caught:
            writer.extend([make_episode(5, 2)]) if group else writer.add(make_episode(5, 2))
        assert "\n" not in str(caught.value)
        assert contents(path) == before
        monkeypatch.undo()
        writer.add(make_episode(5, 2))
    store = EpisodeStore.open(path)
    store.verify()
    assert store.num_episodes == 3


def test_full_disk_while_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path / "s", [3])
    before = contents(tmp_path / "s")

    def synchronise(file: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with StoreWriter(tmp_path / "s") as writer:
        monkeypatch.setattr(disk, "synchronise", synchronise)
        with pytest.raises(RequestError, match="no space left"):
            writer.add(make_episode(5, 1))
        assert contents(tmp_path / "s") == before


def test_full_disk_while_creating(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with StoreWriter(tmp_path / "s", action_space=BOX) as writer:
        monkeypatch.setattr("qseq.episodes.writer.write_atomic", refuse)
        with pytest.raises(RequestError, match="no space left"):
            writer.add(make_episode(5))
        with pytest.raises(DataError, match="not an episode store"):
            EpisodeStore.open(tmp_path / "s")
        monkeypatch.undo()
        writer.add(make_episode(5))
    EpisodeStore.open(tmp_path / "s").verify()


def opening_error(path: Path) -> str:
    """What opening the store complains about, "" if nothing."""
    try:
        EpisodeStore.open(path)
    except DataError as error:
        return str(error)
    return ""


def test_every_flipped_bit_of_schema_and_log_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    make_store(path, [3, 2])
    for name in ("schema.json", "episodes.jsonl"):
        whole = (path / name).read_bytes()
        for place in range(len(whole)):
            changed = bytearray(whole)
            changed[place] ^= 1 << (place % 8)
            (path / name).write_bytes(changed)
            message = opening_error(path)
            if message:
                assert name in message
                assert "\n" not in message
            else:  # white space between the parts of the schema carries nothing
                assert name == "schema.json"
                assert whole[place : place + 1].isspace()
        (path / name).write_bytes(whole)


def test_lost_and_repeated_lines_are_noticed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    make_store(path, [3, 2, 4])
    log = path / "episodes.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    for changed in ([lines[0], lines[2]], [lines[0], lines[0]], [lines[1]]):
        log.write_bytes(b"".join(changed))
        with pytest.raises(DataError, match=r"damaged at line \d"):
            EpisodeStore.open(path)
    log.unlink()
    with pytest.raises(DataError, match="is missing"):
        EpisodeStore.open(path)


@pytest.mark.parametrize("column", ["state.bin", "camera%2Ffront.bin", "action.bin", "reward.bin"])
def test_short_columns_are_noticed_on_opening(tmp_path: Path, column: str) -> None:
    path = tmp_path / "s"
    make_store(path, [3, 2])
    file = path / "columns" / column
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    for opening in (EpisodeStore.open, StoreWriter):
        with pytest.raises(DataError, match=f"{column} is damaged: found {len(whole) - 1} bytes"):
            opening(path)
    file.unlink()
    for opening in (EpisodeStore.open, StoreWriter):
        with pytest.raises(DataError, match=r"damaged: found no such file"):
            opening(path)


def test_verify_names_the_place(tmp_path: Path) -> None:
    path = tmp_path / "s"
    make_store(path, [3, 2, 6])

    def change(column: str, row: int, value: float) -> None:
        values = np.memmap(path / "columns" / column, np.float32, "r+").reshape(-1, {"state.bin": 3}.get(column, 2))
        values[row, 1] = value
        values.flush()

    change("state.bin", 5, 17.0)
    with pytest.raises(DataError, match="episode 1: field 'state': found checksum"):
        EpisodeStore.open(path).verify()
    change("state.bin", 5, np.nan)
    with pytest.raises(DataError, match=r"episode 1: field 'state', step 1, dimension \[1\]: found nan"):
        EpisodeStore.open(path).verify()
    change("state.bin", 5, 1001.0)
    EpisodeStore.open(path).verify()
    change("action.bin", 7, 2.0)
    with pytest.raises(DataError, match=r"episode 2: field 'action', step 2, dimension \[1\]: found 2.0"):
        EpisodeStore.open(path).verify()


def test_a_first_episode_that_fails_leaves_a_usable_folder(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "s", action_space=BOX) as writer:
        with pytest.raises(DataError):
            writer.add(make_episode(3, actions=np.full((3, 2), 7.0)))
        writer.add(make_episode(3, observations={"other": np.zeros((4, 1))}))
    assert list(EpisodeStore.open(tmp_path / "s").schema.fields) == ["other"]
