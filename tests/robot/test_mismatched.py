"""Successes shown with another instruction: what changes of a window, what does not, and what values learn of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qseq import Episode, load_policy
from qseq.configuration import from_dict
from qseq.episodes import EpisodeView, WindowBatch, Windows, WindowSpec
from qseq.errors import QseqError
from qseq.networks.text import Instruction, TextConfig
from qseq.registry import get_algorithm
from qseq.robot import QObjectiveConfig
from qseq.robot.checks import check_mismatched
from qseq.robot.mismatched import mismatched
from tests.robot.bandit import DISCRETE_SPACE, write_view

TEXTS = ("left", "right", "back")
WORDS = torch.tensor([[1], [2], [3]])
SPEC = WindowSpec(bootstrap_steps=(2,), num_action_steps=2)


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
    return Windows(view, SPEC, batch_size=batch_size, seed=0, discount=0.9)


class Judge(nn.Module):
    """Finds that a state fits exactly the instruction of this number."""

    def __init__(self, fits: int) -> None:
        super().__init__()
        self.fits = fits
        self.runs = 0

    def embed_instructions(self, inputs: Tensor, rows_B: Tensor) -> Instruction:
        return Instruction(rows_B[:, None].float())

    def encode(self, observation: Mapping[str, Tensor], instruction: Instruction) -> Tensor:
        assert len(observation["state"]) == len(instruction)
        self.runs += 1
        return instruction.summary_BD[:, None]

    def match_logits(self, context_BSD: Tensor) -> Tensor:
        return torch.where(context_BSD[:, 0, 0] == self.fits, 1.0, -1.0)


def change(batch: WindowBatch, *, share: float = 1.0, alike: float = 0.0, fits: int | None = None) -> WindowBatch:
    network = Judge(-1 if fits is None else fits)
    return mismatched(network, batch, SPEC, WORDS, share=share, alike=alike, judge=fits is not None)


def test_only_ends_of_successes_change_and_lose_what_they_were_worth(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes([1, 2, 3, 4, 5, 6, 7]), DISCRETE_SPACE)
    plain = windows_of(view)
    kinds = set()
    torch.manual_seed(0)
    for index in range(20):
        before = plain.batch_at(index)
        kept = {name: value.clone() for name, value in vars(before).items() if name != "frames"}
        after = change(before)
        assert all(torch.equal(getattr(before, name), value) for name, value in kept.items())
        changed = after.instruction_ids != before.instruction_ids
        assert not (changed & ~before.achieved[:, 0]).any()
        left = torch.from_numpy(view.lengths)[before.episodes] - before.steps
        for row in range(len(before)):
            expected = before.rewards[row].clone()
            if changed[row]:
                expected[left[row] - 1] = 0.0
            torch.testing.assert_close(after.rewards[row], expected)
            assert bool(after.achieved[row, 0]) == (bool(before.achieved[row, 0]) and not changed[row])
            bound = -torch.inf if changed[row] else before.returns_to_go[row].item()
            assert after.returns_to_go[row].item() == bound
            kinds.add((bool(changed[row]), int(left[row])))
        assert torch.equal(after.bootstrap_terminated, before.bootstrap_terminated)
        assert torch.equal(after.steps, before.steps)
        assert after.frames is before.frames
    assert {(True, 1), (True, 2), (False, 1), (False, 7)} <= kinds


def test_the_share_is_of_the_ends_whose_draw_is_another_text(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes([2] * 60, all_succeed=True), DISCRETE_SPACE)
    before = windows_of(view, batch_size=4096).batch_at(0)
    torch.manual_seed(0)
    for share in (0.2, 0.8):
        changed = change(before, share=share).instruction_ids != before.instruction_ids
        assert changed.float().mean() == pytest.approx(share * 2 / 3, abs=0.03)


def test_instructions_that_are_alike_come_from_all_of_the_data(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes([2] * 3, all_succeed=True), DISCRETE_SPACE)
    batch = windows_of(view).windows_at(np.zeros(64, np.int64), np.ones(64, np.int64))  # of one text
    assert torch.equal(change(batch, alike=0.0).instruction_ids, batch.instruction_ids)
    told = change(batch, alike=1.0).instruction_ids
    assert set(told.tolist()) == {1, 2}


def test_where_the_other_instruction_fits_too_nothing_changes(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes([2] * 60, all_succeed=True), DISCRETE_SPACE)
    before = windows_of(view, batch_size=512).batch_at(0)
    torch.manual_seed(0)
    after = change(before, fits=1)
    changed = after.instruction_ids != before.instruction_ids
    assert changed.any()
    assert set(after.instruction_ids[changed].tolist()) == {0, 2}
    for name in ("rewards", "achieved", "returns_to_go"):
        assert torch.equal(getattr(after, name)[~changed], getattr(before, name)[~changed])


def test_the_judge_runs_without_a_success_too(tmp_path: Path) -> None:
    """Where networks are sharded, a process that did not run its own would leave the others waiting."""
    view = write_view(tmp_path / "store", episodes([2, 2, 2, 2]), DISCRETE_SPACE)
    batch = windows_of(view).windows_at(np.array([1, 3]), np.array([1, 1]))
    judge = Judge(-1)
    after = mismatched(judge, batch, SPEC, WORDS, share=1.0, alike=0.0, judge=True)
    assert judge.runs == 1
    for name in ("instruction_ids", "rewards", "achieved", "returns_to_go"):
        assert torch.equal(getattr(after, name), getattr(batch, name))


@pytest.mark.parametrize("which", ["one instruction", "no success", "no words"])
def test_data_that_cannot_be_mismatched_are_refused(tmp_path: Path, which: str) -> None:
    made = episodes([2, 2, 2, 2])
    chosen = made[:1] if which == "one instruction" else made[1::2] if which == "no success" else made
    view = write_view(tmp_path / "store", chosen, DISCRETE_SPACE)
    objective = QObjectiveConfig(mismatched_share=0.5)
    text = TextConfig(encoder="none" if which == "no words" else "words")
    with pytest.raises(QseqError, match=r"objective.mismatched_share: found 0.5, expected 0"):
        check_mismatched(objective, view, text)
    check_mismatched(QObjectiveConfig(), view, text)


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
