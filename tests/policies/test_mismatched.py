"""Successes shown with another instruction: what changes of a window, what does not, and what values learn from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qseq import Episode, load_policy
from qseq.configuration import from_dict
from qseq.episodes import EpisodeView, Windows, WindowSpec
from qseq.errors import RequestError
from qseq.policies.mismatched import MismatchedWindows
from qseq.registry import get_algorithm
from tests.robot.bandit import DISCRETE_SPACE, write_view

TEXTS = ("left", "right", "back")


def episodes(lengths: list[int], *, all_succeed: bool = False) -> list[Episode]:
    """Rewards of -0.5 a step, and 2 at the end of a success; episode i is told text i, and every second one fails."""
    made = []
    for number, length in enumerate(lengths):
        success = all_succeed or number % 2 == 0
        rewards = np.full(length, -0.5, np.float32)
        rewards[-1] = 2.0 if success else -0.5
        made.append(
            Episode(
                observations={"state": np.random.default_rng(number).normal(size=(length + 1, 2)).astype(np.float32)},
                actions=np.full(length, 1 + number % 3, np.int64),
                rewards=rewards,
                terminated=True,
                truncated=False,
                success=success,
                instruction=TEXTS[number % 3],
            )
        )
    return made


def windows_of(view: EpisodeView, batch_size: int = 64) -> Windows:
    spec = WindowSpec(bootstrap_steps=(2,), num_action_steps=2)
    return Windows(view, spec, batch_size=batch_size, seed=0, discount=0.9)


def test_only_successes_change_and_lose_what_ended_them(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes([1, 2, 3, 4, 5, 6, 7]), DISCRETE_SPACE)
    plain = windows_of(view)
    mismatched = MismatchedWindows(plain, view, share=1.0, seed=3)
    kinds = set()
    for index in range(20):
        before, after = plain.batch_at(index), mismatched.batch_at(index)
        changed = after.instruction_ids != before.instruction_ids
        success = torch.from_numpy(view.success == 1)[before.episodes]
        assert not (changed & ~success).any()
        left = torch.from_numpy(view.lengths)[before.episodes] - before.steps
        for row in range(len(before)):
            expected = before.rewards[row].clone()
            if changed[row] and left[row] <= 2:
                expected[left[row] - 1] = 0.0
            torch.testing.assert_close(after.rewards[row], expected)
            ends = bool(before.bootstrap_terminated[row, 0])
            assert bool(after.bootstrap_terminated[row, 0]) == ends
            assert bool(after.achieved[row, 0]) == (bool(before.achieved[row, 0]) and not changed[row])
            bound = -torch.inf if changed[row] else before.returns_to_go[row].item()
            assert after.returns_to_go[row].item() == bound
            kinds.add((bool(changed[row]), ends))
        assert torch.equal(after.steps, before.steps)
        assert torch.equal(after.frames["state"], before.frames["state"])
    assert len(kinds) == 4


def test_the_share_is_of_the_successes_whose_draw_is_another_text(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes([2] * 60), DISCRETE_SPACE)
    plain = windows_of(view, batch_size=4096)
    for share in (0.2, 0.8):
        before, after = plain.batch_at(0), MismatchedWindows(plain, view, share=share, seed=1).batch_at(0)
        changed = after.instruction_ids != before.instruction_ids
        success = torch.from_numpy(view.success == 1)[before.episodes]
        assert changed[success].float().mean() == pytest.approx(share * 2 / 3, abs=0.03)


def test_an_index_gives_the_same_batch_again_and_another_seed_another(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes([2] * 12), DISCRETE_SPACE)
    ids = [
        MismatchedWindows(windows_of(view), view, share=0.5, seed=seed).batch_at(7).instruction_ids
        for seed in (1, 1, 2)
    ]
    assert torch.equal(ids[0], ids[1])
    assert not torch.equal(ids[0], ids[2])


@pytest.mark.parametrize("which", ["one instruction", "no success"])
def test_data_that_cannot_be_mismatched_are_refused(tmp_path: Path, which: str) -> None:
    made = episodes([2, 2, 2, 2])
    chosen = made[:1] if which == "one instruction" else made[1::2]
    view = write_view(tmp_path / "store", chosen, DISCRETE_SPACE)
    with pytest.raises(RequestError, match=r"objective.mismatched_share: found 0.5, expected 0: the data have"):
        MismatchedWindows(windows_of(view), view, share=0.5, seed=0)


def test_words_are_learnt_from_deeds_that_always_succeeded(tmp_path: Path) -> None:
    """Every deed was done for the text it is right for; what stays without a success is to do nothing."""
    start, end = np.zeros((1, 2), np.float32), np.ones((1, 2), np.float32)
    made = [
        Episode(
            observations={"state": np.concatenate([start, end] if deed else [start, end, end])},
            actions=np.array([deed] if deed else [0, 0], np.int64),
            rewards=np.array([1.0] if deed else [0.0, 0.0], np.float32),
            terminated=deed > 0,
            truncated=deed == 0,
            success=deed > 0,
            instruction=TEXTS[deed - 1] if deed else TEXTS[number % 3],
        )
        for number in range(120)
        for deed in [number % 4]
    ]
    write_view(tmp_path / "store", made, {"type": "discrete", "n": 4, "start": 0})
    wrong_deeds = {}
    for share in (0.0, 0.5):
        algorithm = get_algorithm("q-transformer")
        keys = {
            "network": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "dim_head": 8, "dropout": 0.0},
            "objective": {"conservative_weight": 0.0, "mismatched_share": share, "bootstrap_steps": [1]},
            "training": {"steps": 300, "batch_size": 32, "learning_rate": 3e-3, "trackers": [], "threads": 1},
        }
        algorithm.train(
            from_dict(algorithm.config_class, keys), data=[str(tmp_path / "store")], run=tmp_path / f"run{share}"
        )
        policy = load_policy(tmp_path / f"run{share}")
        values = [
            policy.action_values({"state": start}, text, np.array([0]))[0, 0, 1:4] for text in TEXTS
        ]  # row by text, column by deed
        right = np.eye(3, dtype=bool)
        assert np.stack(values)[right].min() > 0.8
        wrong_deeds[share] = float(np.stack(values)[~right].mean())
    assert wrong_deeds[0.0] > 0.25
    assert wrong_deeds[0.5] < 0.1
