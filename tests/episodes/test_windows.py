"""Windows against a slow version written from their definition."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qseq.episodes import Episode, EpisodeView, Windows, WindowSpec
from qseq.episodes.order import Permutation
from qseq.errors import RequestError

from .builders import make_store

LENGTHS = ([1, 5, 2, 13], [7, 1])


@cache
def a_view() -> EpisodeView:
    folder = Path(tempfile.mkdtemp())
    return EpisodeView([make_store(folder / "a", LENGTHS[0]), make_store(folder / "b", LENGTHS[1], first_seed=4)])


def history_before(values: np.ndarray, row: int, spec: WindowSpec) -> np.ndarray:
    """The frames row-F+1 .. row, the first one repeated where there are none, and in the place of the oldest if asked
    for."""
    rows = [max(row - f, 0) for f in range(spec.history - 1, -1, -1)]
    return values[[0, *rows[1:]] if spec.first_frame else rows]


def slow_return(episode: Episode, t: int, discount: float, min_return: float) -> float:
    rest = episode.rewards[t:]
    total = sum(discount**k * float(r) for k, r in enumerate(rest))
    return total if episode.terminated else total + discount ** len(rest) * min_return


specs = st.builds(
    lambda history, first_frame, horizons, extra: WindowSpec(
        history=history + first_frame,
        first_frame=first_frame,
        bootstrap_steps=tuple(sorted(horizons)),
        num_action_steps=max(horizons, default=1) + extra,
    ),
    st.integers(1, 4),
    st.booleans(),
    st.sets(st.integers(1, 9), max_size=3),
    st.integers(0, 3),
)


@settings(max_examples=60, deadline=None)
@given(specs, st.integers(1, 9), st.integers(0, 2**64), st.integers(0, 50), st.floats(0, 1), st.booleans())
def test_against_the_definition(
    spec: WindowSpec, batch_size: int, seed: int, index: int, discount: float, some: bool
) -> None:
    view = a_view().select([5, 1, 3, 4]) if some else a_view()
    min_return = -3.0
    windows = Windows(view, spec, batch_size=batch_size, seed=seed, discount=discount, min_return=min_return)
    batch = windows.batch_at(index)
    assert len(batch) == batch_size
    for b in range(batch_size):
        number, t = windows.position_to_step(index * batch_size + b)
        assert (number, t) == (int(batch.episodes[b]), int(batch.steps[b]))
        episode = view.episode(number)
        steps = episode.num_steps
        for name, values in episode.observations.items():
            frames = batch.frames[name][b].numpy()
            assert len(frames) == spec.num_frames == len(spec.frame_offsets)
            now = history_before(values, t, spec)
            np.testing.assert_array_equal(frames[list(spec.observation_frames())], now)
            for i, m in enumerate(spec.bootstrap_steps):
                then = history_before(values, min(t + m, steps), spec)
                np.testing.assert_array_equal(frames[list(spec.bootstrap_frames(i))], then)
        for k in range(spec.num_action_steps):
            inside = t + k < steps
            assert bool(batch.step_mask[b, k]) == inside
            np.testing.assert_array_equal(batch.actions[b, k], episode.actions[min(t + k, steps - 1)])
            assert float(batch.rewards[b, k]) == (float(episode.rewards[t + k]) if inside else 0.0)
        for i, m in enumerate(spec.bootstrap_steps):
            assert int(batch.bootstrap_steps[b, i]) == min(m, steps - t)
            assert bool(batch.bootstrap_terminated[b, i]) == (episode.terminated and t + m >= steps)
            assert bool(batch.achieved[b, i]) == (episode.success is True and t + m >= steps)
        expected = slow_return(episode, t, discount, min_return)
        assert float(batch.returns_to_go[b]) == pytest.approx(expected, rel=1e-5, abs=1e-5)
        assert view.instructions[int(batch.instruction_ids[b])] == episode.instruction


def test_types_and_shapes() -> None:
    spec = WindowSpec(history=2, bootstrap_steps=(1, 4))
    batch = Windows(a_view(), spec, batch_size=6, seed=0, discount=0.9).batch_at(0)
    assert batch.frames["state"].shape == (6, 5, 3)
    assert batch.frames["camera/front"].shape == (6, 5, 4, 5, 3)
    assert batch.frames["camera/front"].dtype == torch.uint8
    assert batch.actions.shape == (6, 4, 2)
    assert (batch.rewards.dtype, batch.returns_to_go.dtype) == (torch.float32, torch.float32)
    assert (batch.step_mask.dtype, batch.bootstrap_terminated.dtype) == (torch.bool, torch.bool)
    for name in ("bootstrap_steps", "instruction_ids", "episodes", "steps"):
        assert getattr(batch, name).dtype == torch.int64
    moved = batch.to("meta")
    assert moved.frames["state"].device.type == moved.rewards.device.type == "meta"


def test_only_the_fields_asked_for_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    view, read = a_view(), []
    take = view.take
    monkeypatch.setattr(view, "take", lambda name, *rows: (read.append(name), take(name, *rows))[1])
    windows = Windows(view, WindowSpec(), batch_size=6, seed=0, discount=0.9, fields=["state"])
    assert set(windows.batch_at(0).frames) == {"state"} == set(windows.fields)
    assert "camera/front" not in read
    with pytest.raises(RequestError, match=r"fields: found 'depth', expected some of \['camera/front', 'state'\]"):
        Windows(view, WindowSpec(), batch_size=6, seed=0, discount=0.9, fields=["depth"])


def test_each_step_once_an_epoch() -> None:
    windows = Windows(a_view(), WindowSpec(), batch_size=4, seed=3, discount=1.0)
    steps = windows.steps_per_epoch
    assert steps == sum(map(sum, LENGTHS))
    every = {(e, t) for e, length in enumerate(a_view().lengths) for t in range(length)}
    orders = [[windows.position_to_step(epoch * steps + p) for p in range(steps)] for epoch in range(3)]
    for order in orders:
        assert len(order) == len(set(order)) == steps
        assert set(order) == every
    assert orders[0] != orders[1] != orders[2]


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    def steps() -> list[list[int]]:
        windows = Windows(a_view(), WindowSpec(), batch_size=5, seed=1, discount=1.0)
        return [windows.batch_at(index).steps.tolist() for index in (0, 1, 2, 3, 7, 2, 30)]

    whole = steps()
    for size in (1, 10, 15):
        monkeypatch.setattr("qseq.episodes.windows._WINDOWS_A_BLOCK", size)
        assert steps() == whole


def test_batches_are_pure_and_may_straddle_epochs() -> None:
    def make() -> Windows:
        return Windows(a_view(), WindowSpec(bootstrap_steps=(2,)), batch_size=7, seed=5, discount=1.0)

    windows = make()
    first = [windows.batch_at(i) for i in range(40)]
    positions = [windows.position_to_step(p) for p in range(40 * 7)]
    assert [(int(e), int(t)) for b in first for e, t in zip(b.episodes, b.steps, strict=True)] == positions
    for index in (39, 3, 17):  # in another order, by another process, and after a batch was changed in place
        first[index].steps.fill_(-1)
        first[index].step_mask.fill_(False)
        for again in (windows.batch_at(index), make().batch_at(index)):
            assert again.steps.tolist() == [t for _, t in positions[index * 7 : index * 7 + 7]]
            assert again.step_mask[:, 0].all()
            torch.testing.assert_close(again.rewards, first[index].rewards)


def test_windows_at_chosen_steps() -> None:
    windows = Windows(a_view(), WindowSpec(), batch_size=1, seed=0, discount=1.0)
    batch = windows.windows_at(np.array([3, 4]), np.array([12, 0]))
    assert batch.frames["state"][:, 0, 0].tolist() == [3012.0, 4000.0]
    with pytest.raises(RequestError, match="steps: expected"):
        windows.windows_at(np.array([0]), np.array([1]))
    with pytest.raises(RequestError, match="episodes: expected"):
        windows.windows_at(np.array([6]), np.array([0]))


def test_frames_are_read_once() -> None:
    assert WindowSpec(history=3).frame_offsets == (-2, -1, 0, 1)
    assert WindowSpec(history=3).bootstrap_frames(0) == (1, 2, 3)
    assert WindowSpec(bootstrap_steps=(1, 10)).frame_offsets == (0, 1, 10)
    assert WindowSpec(history=2, bootstrap_steps=(1, 3)).frame_offsets == (-1, 0, 1, 2, 3)
    assert WindowSpec(bootstrap_steps=()).num_action_steps == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"history": 0}, "history: found 0"),
        ({"history": 1, "first_frame": True}, "history: found 1, expected at least 2"),
        ({"bootstrap_steps": (0,)}, "bootstrap_steps"),
        ({"bootstrap_steps": (3, 1)}, "ascending"),
        ({"bootstrap_steps": (1, 1)}, "ascending"),
        ({"bootstrap_steps": (5,), "num_action_steps": 4}, "num_action_steps: found 4, expected at least 5"),
    ],
)
def test_refused_specs(changes: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        WindowSpec(**changes)


def test_refused_numbers() -> None:
    for changes, message in (
        ({"batch_size": 0}, "batch_size"),
        ({"seed": -1}, "seed"),
        ({"discount": 2.0}, "discount"),
    ):
        with pytest.raises(RequestError, match=message):
            Windows(a_view(), WindowSpec(), **({"batch_size": 1, "seed": 0, "discount": 1.0} | changes))
    with pytest.raises(RequestError, match="batch index"):
        Windows(a_view(), WindowSpec(), batch_size=1, seed=0, discount=1.0).batch_at(-1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3000), st.integers(0, 2**64), st.integers(0, 1000))
def test_permutation(size: int, seed: int, epoch: int) -> None:
    found = Permutation(size, seed, epoch)(np.arange(size))
    np.testing.assert_array_equal(np.sort(found), np.arange(size))
    np.testing.assert_array_equal(Permutation(size, seed, epoch)(np.arange(size)[::-1]), found[::-1])


def test_permutation_is_mixed() -> None:
    size = 100_000
    orders = [Permutation(size, seed, epoch)(np.arange(size)) for seed in (0, 1) for epoch in (0, 1)]
    for number, order in enumerate(orders):
        # Neighbours must be as far apart as chance has them, and places unrelated to other orders.
        assert np.abs(np.diff(order)).mean() == pytest.approx(size / 3, rel=0.02)
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
        for other in orders[:number]:
            assert abs(np.corrcoef(order, other)[0, 1]) < 0.02
        counts = np.histogram2d(np.arange(size), order, bins=20)[0]
        assert ((counts - 250) ** 2 / 250).sum() < 361 + 6 * np.sqrt(2 * 361)
    big = Permutation(2**40, 0, 0)(np.arange(1000))
    assert len(np.unique(big)) == 1000
    # Fixed numbers: an order that changes between versions would break resuming a run.
    assert Permutation(10, 7, 1)(np.arange(10)).tolist() == [2, 0, 1, 3, 9, 4, 7, 5, 6, 8]
