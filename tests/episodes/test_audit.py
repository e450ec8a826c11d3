"""Ranges, dropped frames and duplicates, by hand-worked stores."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, StoreWriter
from qseq.episodes.audit import dropped_frames, duplicate_episodes, field_ranges

from .builders import BOX, make_episode


def store_of(path: Path, episodes: list[Any]) -> EpisodeStore:
    with StoreWriter(path, action_space=BOX) as writer:
        writer.extend(episodes)
    return EpisodeStore.open(path)


def test_ranges(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qseq.episodes.audit._ROWS", 3)  # in several pieces
    values = np.array([[1, -5], [2, 0], [3, 5], [4, 4], [5, 9]], np.float32)
    observations = {
        "state": values,
        "depth": np.arange(20, dtype=np.float32).reshape(5, 2, 2),
        "camera": np.full((5, 2, 2, 3), 7, np.uint8),
    }
    store = store_of(tmp_path / "s", [make_episode(4, 0, observations=observations, rewards=np.array([0, 0, 0, 1.0]))])
    found = field_ranges(store)
    assert (found["state"].min, found["state"].max, found["state"].mean) == ([1, -5], [5, 9], [3, pytest.approx(2.6)])
    assert (found["depth"].min, found["depth"].max, found["depth"].mean) == ([0], [19], [9.5])
    assert (found["camera"].min, found["camera"].sampled) == ([7], False)
    assert (found["reward"].min, found["reward"].max, found["reward"].mean) == ([0], [1], [0.25])


def test_pictures_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qseq.episodes.audit._PICTURES", 3)
    camera = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros((2, 2, 3), np.uint8)
    store = store_of(tmp_path / "s", [make_episode(4, 0, observations={"camera": camera})])
    found = field_ranges(store)["camera"]
    assert (found.min, found.mean, found.max, found.sampled) == ([0], [2], [4], True)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_dropped_frames_by_time_stamps(tmp_path: Path, shape: tuple[int, ...]) -> None:
    def episode(times: list[float]) -> Any:
        stamps = np.array(times, np.float32).reshape(-1, *shape)
        return make_episode(len(times) - 1, 0, observations={"camera/timestamp": stamps})

    regular = episode([0, 0.1, 0.2, 0.3, 0.4])
    shaken = episode([0, 0.11, 0.19, 0.31, 0.4])
    gaps = episode([0, 0.1, 0.2, 0.5, 0.6, 0.7, 0.9])  # two missing, then one
    standing = episode([1, 1, 1])
    store = store_of(tmp_path / "s", [regular, shaken, gaps, standing])
    found = dropped_frames(store)
    assert found is not None
    assert found.tolist() == [0, 0, 3, 0]


def test_dropped_frames_by_what_the_source_said(tmp_path: Path) -> None:
    said = [{"fps": 10}, {"fps": 10, "dropped_frames": 4}, {}]
    found = dropped_frames(store_of(tmp_path / "s", [make_episode(3, i, metadata=m) for i, m in enumerate(said)]))
    assert found is not None
    assert found.tolist() == [0, 4, 0]
    assert dropped_frames(store_of(tmp_path / "t", [make_episode(3, 0)])) is None


def test_duplicates(tmp_path: Path) -> None:
    other_reward = make_episode(3, 1, rewards=np.zeros(3))
    relabelled = make_episode(3, 1, instruction="another", success=False, metadata={})
    episodes = [
        make_episode(3, 1),
        make_episode(3, 2),
        make_episode(3, 1),
        other_reward,
        make_episode(3, 2),
        relabelled,
    ]
    store = store_of(tmp_path / "s", episodes)
    assert duplicate_episodes(store) == [[0, 2, 5], [1, 4]]


def test_equal_checksums_are_no_proof(tmp_path: Path) -> None:
    store = store_of(tmp_path / "s", [make_episode(3, 1), make_episode(3, 2), make_episode(3, 1)])
    store.checksums = [dict.fromkeys(store.columns, 0)] * 3
    assert duplicate_episodes(store) == [[0, 2]]
