"""What data a run trains on."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from qseq.episodes import Episode, EpisodeView
from qseq.errors import RequestError
from qseq.policies.preparation import DataConfig, only_instruction, open_view, with_success_share
from tests.robot.bandit import corner_episodes, write_view


def lengthened(episode: Episode, steps: int) -> Episode:
    return replace(
        episode,
        observations={"state": np.repeat(episode.observations["state"][:1], steps + 1, axis=0)},
        actions=np.repeat(episode.actions, steps, axis=0),
        rewards=np.zeros(steps, np.float32),
    )


def share(view: EpisodeView) -> float:
    return float(view.lengths[view.success == 1].sum() / view.num_steps)


@pytest.mark.parametrize("wanted", [0.0, 0.1, 0.5, 0.9])
def test_successes_are_repeated_up_to_their_share_and_nothing_is_lost(wanted: float, tmp_path: Path) -> None:
    episodes = [replace(lengthened(e, 3 + i % 5), success=i % 10 == 0) for i, e in enumerate(corner_episodes(100))]
    view = write_view(tmp_path / "store", episodes)
    before = share(view)
    after = with_success_share(view, wanted)
    longest = 7 / after.num_steps
    assert share(after) == pytest.approx(max(before, wanted), abs=longest)
    assert (after.lengths[:100] == view.lengths).all()
    counts = np.bincount(after.first_steps, minlength=view.num_steps)[view.first_steps]
    failures = view.success != 1
    assert (counts[failures] == 1).all()
    assert np.ptp(counts[~failures]) <= 1


def test_without_successes_nothing_is_repeated(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", [replace(e, success=None) for e in corner_episodes(10)])
    with pytest.warns(UserWarning, match="none of the 10 episodes is a success"):
        assert with_success_share(view, 0.5) is view
    with pytest.raises(RequestError, match="successes_only"):
        with_success_share(view, 1.0)


def test_views_are_filtered_as_configured(tmp_path: Path) -> None:
    write_view(tmp_path / "store", corner_episodes(40))
    sources = [str(tmp_path / "store")]
    assert open_view(sources, DataConfig(successes_only=True)).success.min() == 1
    assert open_view(sources, DataConfig(limit_episodes=7)).num_episodes == 7
    assert open_view([*sources, *sources], DataConfig()).num_episodes == 80


def test_only_a_single_instruction_is_taken_for_granted(tmp_path: Path) -> None:
    one = write_view(tmp_path / "one", corner_episodes(3))
    assert only_instruction(one) == "touch the corner"
    two = write_view(tmp_path / "two", [*corner_episodes(2), replace(corner_episodes(1)[0], instruction="wave")])
    assert only_instruction(two) == ""
