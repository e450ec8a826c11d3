"""Intervals, pooling and summaries of data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, StoreWriter
from qseq.reporting.intervals import Interval, difference_interval, pooled_mean, success_interval
from qseq.reporting.results import pool_results
from qseq.reporting.runs import read_run
from qseq.reporting.sections import read_curve
from qseq.reporting.summary import summarise
from reporting.fake_runs import ACTION_SPACE, make_run, make_store


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    # Wilson (1927) as tabulated by Newcombe (1998), table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_success_interval_matches_published_values(successes: int, episodes: int, low: float, high: float) -> None:
    found = success_interval(successes, episodes)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)


def test_difference_interval_matches_published_values() -> None:
    # Newcombe (1998), table II, method 10: 56/70 against 48/80.
    found = difference_interval(success_interval(56, 70), success_interval(48, 80))
    assert (found.value, found.low, found.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)


def test_pooled_mean_of_equal_samples_narrows_by_the_root() -> None:
    found = pooled_mean([(Interval(1.0, 0.0, 2.0), 50), (Interval(3.0, 2.0, 4.0), 50)])
    assert found == pytest.approx((2.0, 2.0 - 0.5**0.5, 2.0 + 0.5**0.5))


def test_runs_of_one_method_are_pooled_and_labels_kept_apart(tmp_path: Path) -> None:
    runs = [
        make_run(tmp_path / "a", "q", rate=0.4),
        make_run(tmp_path / "b", "q", rate=0.6, seed=1),
        make_run(tmp_path / "c", "q", rate=0.9, label="big"),
    ]
    best, pooled = pool_results([read_run(run) for run in runs])
    assert (best.name, best.episodes) == ("q big", 50)
    assert (pooled.name, pooled.runs, pooled.episodes) == ("q", 2, 100)
    assert pooled.score.value == pytest.approx(0.5)
    assert set(pooled.tasks) == {"push-v3", "reach-v3"}


def test_curves_are_thinned_and_skip_what_is_not_finite() -> None:
    records = [{"step": i, "loss": float(i)} for i in range(1000)] + [{"step": 1000, "loss": float("nan")}, {"step": 3}]
    steps, values = read_curve(records, "loss")
    assert len(steps) == 300
    assert np.isfinite(values).all()
    assert steps == pytest.approx(values)


def test_summary_counts(tmp_path: Path) -> None:
    store = EpisodeStore.open(make_store(tmp_path / "data", episodes=12))
    summary = summarise(store)
    assert (summary.episodes, summary.steps) == (12, store.num_steps)
    assert summary.success_rate == pytest.approx(float(store.success.mean()))
    assert summary.fields["state"] == {"dtype": "float32", "shape": [6]}
    assert [group.name for group in summary.groups] == ["push-v3", "reach-v3"]
    assert sum(group.steps for group in summary.groups) == store.num_steps


def test_summary_of_an_empty_store(tmp_path: Path) -> None:
    from qseq.episodes import StoreSchema

    StoreWriter(tmp_path / "empty", StoreSchema({"state": ("float32", (2,))}, ACTION_SPACE)).close()
    summary = summarise(EpisodeStore.open(tmp_path / "empty"))
    assert (summary.episodes, summary.success_rate, summary.returns) == (0, None, [])
