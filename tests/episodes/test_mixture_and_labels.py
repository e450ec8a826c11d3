"""Views that mix, filter and relabel: nothing is copied or written, and every position has its window."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qseq.episodes import EpisodeStore, EpisodeView, RecordedEpisode, Windows, WindowSpec
from qseq.episodes.step_order import MixedSteps
from qseq.errors import DataError, RequestError

from .builders import contents, make_store


@pytest.fixture
def stores(tmp_path: Path) -> list[EpisodeStore]:
    return [make_store(tmp_path / "a", [3, 2, 4]), make_store(tmp_path / "b", [5, 1], first_seed=3)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 2)), min_size=1, max_size=12),
    st.tuples(*[st.floats(0, 8)] * 3),
    st.integers(0, 2**40),
    st.integers(0, 30_000),
)
def test_positions_are_a_pure_function(
    episodes: list[tuple[int, int]], weights: tuple[float, ...], seed: int, first: int
) -> None:
    lengths, groups = (np.array(part, dtype=np.int64) for part in zip(*episodes, strict=True))
    allowed = [w if (groups == k).any() and w > 0.01 else 0.0 for k, w in enumerate(weights)]
    if not any(allowed):
        return
    group_of_step = np.repeat(groups, lengths)
    order = MixedSteps(lengths, groups, allowed, seed)
    positions = np.arange(first, first + 9000)
    steps = order(positions)
    # Cut anywhere, or asked by another object: the same steps.
    for part in (slice(0, 1), slice(4000, 4100), slice(8999, 9000)):
        np.testing.assert_array_equal(MixedSteps(lengths, groups, allowed, seed)(positions[part]), steps[part])
    # The shares hold within every 4096 positions, to one window.
    whole = order(np.arange(4096 * 3, 4096 * 4))
    shares = np.bincount(group_of_step[whole], minlength=3)
    np.testing.assert_allclose(shares, 4096 * np.array(allowed) / sum(allowed), atol=1.001)


def test_every_step_of_a_group_comes_once_before_any_comes_again() -> None:
    lengths, groups = np.array([30, 11, 7, 50]), np.array([0, 1, 0, 1])
    steps = MixedSteps(lengths, groups, (3.0, 1.0), seed=4)(np.arange(5000))
    for group in (0, 1):
        mine = np.flatnonzero(np.repeat(groups, lengths) == group)
        came = steps[np.isin(steps, mine)]
        # Within a round of 4096 positions they are scattered: count in whole rounds.
        counts = np.bincount(steps[:4096], minlength=98)[mine]
        assert np.ptp(counts) <= 1
        assert set(came) == set(mine)


def test_weights(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores).weighted([1, 3])

    def batch(index: int, view: EpisodeView = view) -> np.ndarray:
        windows = Windows(view, WindowSpec(), batch_size=4096, seed=3, discount=0.9)
        return view.store_ids[windows.batch_at(index).episodes.numpy()]

    assert np.bincount(batch(0)).tolist() == [1024, 3072]
    assert np.bincount(batch(7)).tolist() == [1024, 3072]
    assert set(batch(0, EpisodeView(stores).weighted([0, 2]))) == {1}
    # A selection keeps them, whatever its order.
    chosen = view.select([4, 2, 0, 3, 3])
    assert np.bincount(batch(1, chosen)).tolist() == [1024, 3072]
    first = Windows(chosen, WindowSpec(), batch_size=5, seed=1, discount=0.9).batch_at(9)
    again = Windows(chosen, WindowSpec(), batch_size=5, seed=1, discount=0.9)
    again.batch_at(4000)
    assert again.batch_at(9).steps.equal(first.steps)
    assert again.batch_at(9).episodes.equal(first.episodes)
    for wrong in ([1], [1, -1], [0, 0], [1, float("nan")], [1, float("inf")]):
        with pytest.raises(RequestError, match="expected 2 numbers"):
            EpisodeView(stores).weighted(wrong)
    with pytest.raises(DataError, match="0 episodes chosen"):
        EpisodeView(stores, [0, 1]).weighted([1, 1])
    with pytest.raises(RequestError, match="at least 1 of 4096"):
        Windows(EpisodeView(stores).weighted([1, 1e-6]), WindowSpec(), batch_size=1, seed=0, discount=0.9)


def test_filters_see_episodes(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores)
    seen: list[tuple[int, str, str | None, bool | None, float]] = []

    def odd(episode: RecordedEpisode) -> bool:
        task = episode.task
        seen.append((episode.num_steps, episode.instruction, task, episode.success, episode.total_return))
        assert set(episode.observations) == {"state", "camera/front"}
        assert episode.observations["state"].shape == (episode.num_steps + 1, 3)
        return bool(episode.observations["state"][0, 0] // 1000 % 2)

    assert view.where(odd).lengths.tolist() == [2, 5]
    for index, (steps, instruction, task, success, total) in enumerate(seen):
        episode = view.episode(index)
        assert (steps, instruction, success) == (episode.num_steps, episode.instruction, episode.success)
        assert task == "test"
        assert total == pytest.approx(float(episode.rewards.sum()))
    with pytest.raises(DataError, match="0 episodes chosen"):
        view.where(lambda episode: False)
    assert view.select([3, 1]).where(lambda episode: episode.num_steps > 2).lengths.tolist() == [5]


def test_relabelling(stores: list[EpisodeStore], tmp_path: Path) -> None:
    before = contents(tmp_path)
    plain = EpisodeView(stores).select([1, 2, 4])
    view = plain.relabel(
        rewards=lambda episode: np.arange(episode.num_steps) + episode.observations["state"][1:, 0],
        success=lambda episode: episode.total_return > 3000,  # sees the new rewards
        instruction=lambda episode: f"succeed {episode.success}",
    )
    for index in range(3):
        old, new = plain.episode(index), view.episode(index)
        expected = np.arange(old.num_steps) + old.observations["state"][1:, 0]
        np.testing.assert_array_equal(new.rewards, expected)
        assert new.success is bool(expected.sum() > 3000)
        assert new.instruction == f"succeed {new.success}"
        np.testing.assert_array_equal(new.actions, old.actions)
        assert new.metadata == old.metadata
    np.testing.assert_allclose(view.returns(), [view.episode(i).rewards.sum() for i in range(3)])
    assert view.success.tolist() == [0, 1, 1]
    assert view.successes().lengths.tolist() == [4, 1]
    batch = Windows(view, WindowSpec(), batch_size=7, seed=0, discount=1.0, shuffle=False).batch_at(0)
    assert batch.rewards[:, 0].tolist() == view.rewards().tolist()
    assert batch.returns_to_go[0] == pytest.approx(view.returns()[0])
    told = [view.instructions[i] for i in batch.instruction_ids]
    assert told == ["succeed False"] * 2 + ["succeed True"] * 5
    # Nothing else changed: neither the files, nor the view it was made of, nor episodes outside.
    assert contents(tmp_path) == before
    assert plain.episode(0).instruction == "do 1"
    assert EpisodeView(stores).returns()[1] == pytest.approx(float(plain.episode(0).rewards.sum()))


def test_failures_that_end_everything(stores: list[EpisodeStore]) -> None:
    told = {3: False, 2: None, 4: False, 5: True, 1: None}
    plain = EpisodeView(stores).relabel(success=lambda episode: told[episode.num_steps])
    view = plain.relabel(failures_end=True)
    failed = plain.success == 0
    assert (failed & ~plain.terminated).any()
    np.testing.assert_array_equal(view.terminated, plain.terminated | failed)
    np.testing.assert_array_equal(view.truncated, plain.truncated & ~failed)
    np.testing.assert_array_equal(view.select([2, 0]).terminated, [True, True])  # what is made of it keeps it
    first = int(np.flatnonzero(failed & ~plain.terminated)[0])
    episode = view.episode(first)
    assert (episode.terminated, episode.truncated) == (True, False)
    # Nothing is bootstrapped from there, and returns are complete.
    spec, low = WindowSpec(bootstrap_steps=(9,)), -8.0
    batch = Windows(view, spec, batch_size=15, seed=0, discount=0.5, min_return=low, shuffle=False).batch_at(0)
    assert batch.bootstrap_terminated[:, 0].tolist() == np.repeat(view.terminated, view.lengths).tolist()
    assert view.returns_to_go(0.5, low)[np.cumsum(view.lengths)[first] - 1] == view.episode(first).rewards[-1]


def test_instructions_that_nobody_is_told_are_forgotten(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores).relabel(instruction=lambda episode: "all the same")
    assert view.instructions == ["all the same"]
    assert set(view.instruction_ids) == {0}


def test_labels_that_are_none_are_refused(stores: list[EpisodeStore]) -> None:
    view = EpisodeView(stores)
    with pytest.raises(DataError, match=r"episode 1: relabelled rewards: found shape \[3\], expected \[2\]"):
        view.relabel(rewards=lambda episode: np.zeros(3))
    with pytest.raises(DataError, match="episode 0: relabelled rewards: found numbers that are not finite"):
        view.relabel(rewards=lambda episode: np.full(episode.num_steps, np.nan))
    with pytest.raises(RequestError, match="relabelled success: found 2"):
        view.relabel(success=lambda episode: 2)  # type: ignore[arg-type, return-value]
    with pytest.raises(RequestError, match="relabelled instruction: found None"):
        view.relabel(instruction=lambda episode: None)  # type: ignore[arg-type, return-value]
