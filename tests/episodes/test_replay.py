"""Replay windows: the right rows, of written episodes only, without reading the folder into memory."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from qseq import ReplayMemoryDataset
from qseq.episodes import FieldSpec, StoreSchema, StoreWriter
from qseq.episodes.commit_log import LOG_FILE, encode_record
from qseq.errors import DataError, RequestError
from tests.episodes.builders import BOX, make_episode, make_store


@pytest.mark.parametrize("steps", [1, 2, 3, 7])
def test_every_window_is_the_episode_it_was_cut_from(tmp_path: Path, steps: int) -> None:
    lengths = [3, 1, 5, 2]  # the episodes numbered 0 and 3 terminate
    make_store(tmp_path / "store", lengths)
    dataset = ReplayMemoryDataset(tmp_path / "store", steps)
    assert (len(dataset), dataset.num_episodes) == (11, 4)
    assert dataset.episode_length.tolist() == lengths
    index = 0
    for number, length in enumerate(lengths):
        episode = make_episode(length, number)
        for step in range(length):
            window = dataset[index]
            real = min(steps, length - step)
            assert window.instruction == f"do {number % 2}"
            assert window.mask.tolist() == [True] * real + [False] * (steps - real)
            for name, values in episode.observations.items():
                np.testing.assert_array_equal(window.states[name][:real], values[step : step + real])
                # The next state is the one after the window's last step, never the present one, never zeros.
                np.testing.assert_array_equal(window.next_state[name], values[step + real])
            np.testing.assert_array_equal(window.actions[:real], episode.actions[step : step + real])
            np.testing.assert_array_equal(window.rewards[:real], episode.rewards[step : step + real])
            assert (window.rewards[real:] == 0).all()
            # An episode that was cut off (numbers 1 and 2) is not terminal at its end.
            assert bool(window.terminated) == (number % 3 == 0 and step + real == length)
            index += 1
    assert dataset[-1].next_state["state"].tolist() == dataset[10].next_state["state"].tolist()
    for outside in (11, -12):
        with pytest.raises(IndexError):
            dataset[outside]


def test_unwritten_episodes_do_not_count(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [4, 2])
    with (tmp_path / "store" / LOG_FILE).open("ab") as log:
        log.write(b'{"index":2,"first_step":6,"steps":1000,')  # a writer died here
    for name in ("state", "camera%2Ffront", "action", "reward"):
        with (tmp_path / "store" / "columns" / f"{name}.bin").open("ab") as column:
            column.write(bytes(100_000))
    dataset = ReplayMemoryDataset(tmp_path / "store")
    assert len(dataset) == 6
    assert all(bool(dataset[i].states["state"].any()) or i == 0 for i in range(6))


def test_a_loader_of_torch_can_read_it(tmp_path: Path) -> None:
    make_store(tmp_path / "store", [3, 5])
    loader: Any = DataLoader(ReplayMemoryDataset(tmp_path / "store", 2), batch_size=4)  # type: ignore[arg-type]
    first, second = list(loader)
    assert first.states["camera/front"].shape == (4, 2, 4, 5, 3)
    assert first.next_state["state"].shape == (4, 3)
    assert second.mask.shape == (4, 2)
    assert list(first.instruction) == ["do 0", "do 0", "do 0", "do 1"]


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not an episode store"):
        ReplayMemoryDataset(tmp_path / "nothing")
    with StoreWriter(tmp_path / "empty", StoreSchema({"state": FieldSpec("float32", (3,))}, BOX)):
        pass
    with pytest.raises(DataError, match="found 0 episodes"):
        ReplayMemoryDataset(tmp_path / "empty")
    make_store(tmp_path / "store", [3])
    with pytest.raises(RequestError, match="num_timesteps: found 0"):
        ReplayMemoryDataset(tmp_path / "store", 0)


def sparse_store(folder: Path, episodes: int, steps: int) -> None:
    """A store whose files take no room on the disk: zeros, but as long as if they had been written."""
    schema = StoreSchema({"camera": FieldSpec("uint8", (3, 224, 224))}, BOX)
    StoreWriter(folder, schema).close()
    lines = [
        encode_record(
            {
                "index": index,
                "first_step": index * steps,
                "steps": steps,
                "terminated": True,
                "truncated": False,
                "success": -1,
                "instruction": "look",
                "metadata": {},
                "columns": dict.fromkeys(schema.columns, zlib.crc32(b"")),
            }
        )
        for index in range(episodes)
    ]
    (folder / LOG_FILE).write_bytes(b"".join(lines))
    for name, spec in schema.columns.items():
        rows = episodes * (steps + (name == "camera"))
        with (folder / "columns" / f"{name}.bin").open("r+b") as column:
            column.truncate(rows * spec.row_bytes)


def test_opening_and_reading_take_memory_for_what_is_read(tmp_path: Path) -> None:
    episodes, steps = 1000, 100
    sparse_store(tmp_path / "big", episodes, steps)
    # The usage example's 100 000 steps: single uint8 frames, 15 GB where float32 stacks of six would be 361 GB.
    size = sum(path.stat().st_size for path in (tmp_path / "big" / "columns").iterdir())
    assert size == pytest.approx(15.2e9, rel=0.01)
    tracemalloc.start()
    try:
        dataset = ReplayMemoryDataset(tmp_path / "big", num_timesteps=5)
        assert len(dataset) == episodes * steps
        window = dataset[54_321]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert window.states["camera"].shape == (5, 3, 224, 224)
    assert peak < 20e6
    assert torch.count_nonzero(window.next_state["camera"]) == 0
