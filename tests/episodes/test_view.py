"""Several stores as one data set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, EpisodeView, StoreWriter, Windows, WindowSpec, compute_statistics
from qseq.errors import DataError

from .builders import BOX, assert_same, make_episode, make_store


@pytest.fixture
def stores(tmp_path: Path) -> list[EpisodeStore]:
    return [make_store(tmp_path / "a", [3, 2, 4]), make_store(tmp_path / "b", [5, 1], first_seed=3)]


def test_merged(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores)
    assert (view.num_episodes, view.num_steps) == (5, 15)
    for index, steps in enumerate([3, 2, 4, 5, 1]):
        assert_same(view.episode(index), make_episode(steps, index))
    assert view.instructions == ["do 0", "do 1"]
    assert [view.instructions[i] for i in view.instruction_ids] == [f"do {i % 2}" for i in range(5)]
    np.testing.assert_allclose(view.returns(), np.concatenate([s.returns() for s in stores]))
    assert view.success_rate == pytest.approx(2 / 3)
    assert view.action_space == stores[0].schema.action_space
    assert view.fields["state"] == ("float32", (3,))


def test_selections(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores)
    good = view.successes()
    assert good.lengths.tolist() == [2, 1]
    assert_same(good.episode(1), make_episode(1, 4))
    chosen = EpisodeView(stores, [4, 0])
    assert_same(chosen.episode(0), make_episode(1, 4))
    assert_same(chosen.select(np.array([False, True])).episode(0), make_episode(3, 0))
    with pytest.raises(DataError, match="0 episodes chosen"):
        good.select(np.array([False, False]))
    with pytest.raises(DataError, match="found no store"):
        EpisodeView([])


def test_an_episode_shown_twice_is_one_recording(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores)
    assert len(set(view.recordings.tolist())) == view.num_episodes
    again = view.select([3, 0, 3]).select([0, 1, 2, 0])
    assert again.recordings.tolist() == view.recordings[[3, 0, 3, 3]].tolist()
    windows = Windows(again, WindowSpec(), batch_size=1, seed=0, discount=0.9)
    batch = windows.windows_at(np.array([0, 1, 2]), np.zeros(3, np.int64))
    assert batch.recordings.tolist() == again.recordings[:3].tolist()


def test_schemas_must_match(stores: list[EpisodeStore], tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "c", action_space=BOX) as writer:
        other = dict(make_episode(2).observations, state=np.zeros((3, 8)))
        writer.add(make_episode(2, observations=other))
    with pytest.raises(DataError, match=r"'state': found float32 \[8\], expected float32 \[3\]"):
        EpisodeView([*stores, EpisodeStore.open(tmp_path / "c")])


def test_samples(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores)
    actions = np.concatenate([view.episode(i).actions for i in range(5)])
    np.testing.assert_array_equal(view.action_samples(100), actions)
    some = view.action_samples(7, seed=1)
    np.testing.assert_array_equal(some, view.action_samples(7, seed=1))
    assert len(np.unique(some, axis=0)) == 7
    assert {tuple(a) for a in some} <= {tuple(a) for a in actions}
    assert not np.array_equal(some, view.action_samples(7, seed=2))
    np.testing.assert_array_equal(
        view.sample("state", 99), np.concatenate([view.episode(i).observations["state"][:-1] for i in range(5)])
    )


def test_statistics(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    state = (1e4 + rng.normal(size=(501, 3))).astype(np.float32)
    state[:, 1] = 0.1  # constant, and not a number float32 can sum exactly
    with StoreWriter(tmp_path / "s", action_space=BOX) as writer:
        writer.add(make_episode(500, observations={"state": state}))
    view = EpisodeView(EpisodeStore.open(tmp_path / "s"))
    found = compute_statistics(view)
    assert set(found) == {"state", "action"}
    seen = state[:-1].astype(np.float64)
    np.testing.assert_allclose(found["state"].mean, seen.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found["state"].std[[0, 2]], seen.std(axis=0)[[0, 2]], rtol=1e-4)
    assert found["state"].std[1] == 1.0
    np.testing.assert_allclose(found["state"].q01, np.quantile(seen, 0.01, axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["state"].max, seen.max(axis=0))
    again = type(found["state"]).from_dict(found["state"].to_dict())
    np.testing.assert_array_equal(again.q99, found["state"].q99)
    assert again.mean.dtype == np.float32
    with pytest.raises(DataError, match="cannot be read"):
        type(again).from_dict({"mean": [1]})
    few = compute_statistics(view, max_rows=100)
    assert abs(few["action"].mean - found["action"].mean).max() < 0.3
