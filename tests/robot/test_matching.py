"""The head that tells where an instruction leads: which rows it learns from, its loss, and that it learns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qseq import Episode
from qseq.configuration import from_dict
from qseq.episodes import EpisodeView, Windows, WindowSpec
from qseq.errors import ConfigError
from qseq.networks.text import Instruction
from qseq.policies.endings import EndingsFirst
from qseq.robot import QObjectiveConfig
from qseq.robot.algorithm import make_trainer
from qseq.robot.config import QTransformerConfig
from qseq.robot.matching import draw_alike, matching_loss, rows_to_match
from qseq.training.trainer import TrainerState
from tests.robot.bandit import DISCRETE_SPACE, write_view

TEXTS = ("left", "right", "back", "ahead")
SPEC = WindowSpec(bootstrap_steps=(1,))
INSTRUCTIONS = torch.zeros(len(TEXTS), 1, dtype=torch.long)


def episodes(count: int, *, succeed: bool = True) -> list[Episode]:
    """Two steps that end in the state numbered like the text; failures end in another."""
    return [
        Episode(
            observations={"state": np.array([[-1.0], [-1.0], [float((n + (not succeed)) % 4)]], np.float32)},
            actions=np.ones(2, np.int64),
            rewards=np.array([0.0, float(succeed)], np.float32),
            terminated=succeed,
            truncated=not succeed,
            success=succeed,
            instruction=TEXTS[n % 4],
        )
        for n in range(count)
    ]


class Knows(nn.Module):
    """Stands in for a network that answers with logits of `sure` where state and text have the same number."""

    def __init__(self, sure: float) -> None:
        super().__init__()
        self.sure = sure

    def embed_instructions(self, inputs: Tensor, rows_B: Tensor) -> Instruction:
        return Instruction(rows_B[:, None].float())

    def encode(self, observation: Mapping[str, Tensor], instruction: Instruction) -> Tensor:
        return torch.cat((observation["state"][:, -1:], instruction.summary_BD[:, None]), dim=2)

    def match_logits(self, context_BSD: Tensor) -> Tensor:
        matches_B = context_BSD[:, 0, 0] == context_BSD[:, 0, 1]
        return torch.where(matches_B, self.sure, -self.sure)


class Always(Knows):
    """A logit of 1 where state and text have the same number, else 0."""

    def __init__(self) -> None:
        super().__init__(1.0)

    def match_logits(self, context_BSD: Tensor) -> Tensor:
        return (super().match_logits(context_BSD) + 1) / 2


def windows_of(view: EpisodeView) -> Windows:
    return Windows(view, SPEC, batch_size=64, seed=0, discount=0.9)


def test_it_learns_from_the_last_states_of_successes_an_eighth_of_the_batch_at_most(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes(4) + episodes(4, succeed=False), DISCRETE_SPACE)
    batch = windows_of(view).batch_at(0)
    rows_E, weights_E = rows_to_match(batch)
    assert len(rows_E) == min(8, int(batch.achieved.sum()))
    assert (weights_E == 1).all()
    assert (batch.steps[rows_E] == 1).all()
    assert (batch.episodes[rows_E] < 4).all()
    # A whole batch of last steps of successes: no more than an eighth.
    all_last = windows_of(view).windows_at(np.arange(64) % 4, np.ones(64, np.int64))
    assert len(rows_to_match(all_last)[0]) == 8


@pytest.mark.parametrize("sure", [4.0, -4.0])
def test_the_loss_is_of_own_and_other_instructions_alike(tmp_path: Path, sure: float) -> None:
    view = write_view(tmp_path / "store", episodes(4), DISCRETE_SPACE)
    batch = windows_of(view).windows_at(np.arange(64) % 4, np.ones(64, np.int64))
    torch.manual_seed(0)
    loss = matching_loss(Knows(sure), batch, SPEC, INSTRUCTIONS)
    assert loss.item() == pytest.approx(np.log1p(np.exp(-sure)), rel=1e-4)


def test_others_that_are_alike_are_those_that_share_the_most_words() -> None:
    # With row 0, [5, 6, 7], row 1 shares two words of four, row 3 one of three, row 2 one of five, the others none.
    words = torch.tensor([[5, 6, 7], [5, 6, 9], [5, 8, 9], [5, 0, 0], [1, 2, 3], [1, 2, 0]])
    vectors = torch.nn.functional.one_hot(words, 10).float()
    vectors[words == 0] = 0.0
    own = torch.zeros(200, dtype=torch.long)
    torch.manual_seed(0)
    for instructions in (words, vectors):
        for among, expected in ((1, {1}), (2, {1, 3}), (3, {1, 2, 3}), (9, {1, 2, 3, 4, 5})):
            found = draw_alike(instructions, own, among=among)
            assert set(found.tolist()) == expected, (instructions.dtype, among)
    assert len(set(draw_alike(words, own, among=6, searched=2).tolist())) <= 2
    assert draw_alike(words[:1], own).eq(0).all()


def test_alike_instructions_are_shown_in_the_place_of_any_others(tmp_path: Path) -> None:
    """Rows of one text in the batch: any other of them is its own, but the data have more."""
    view = write_view(tmp_path / "store", episodes(4), DISCRETE_SPACE)
    batch = windows_of(view).windows_at(np.zeros(64, np.int64), np.ones(64, np.int64))
    words = torch.tensor([[1, 2], [1, 3], [1, 4], [1, 5]])
    wrong: list[float] = []
    for alike in (0.0, 1.0):
        torch.manual_seed(0)
        wrong.append(matching_loss(Always(), batch, SPEC, words, alike=alike).item())
    # Logits of zero but for the own text, whose are 1: the others cost log 2, the own log(1 + exp(-1)).
    own, other = float(np.log1p(np.exp(-1))), float(np.log(2))
    assert wrong[0] == pytest.approx(own, rel=1e-5)
    assert own + 0.3 * (other - own) < wrong[1] < own + 0.7 * (other - own)


def test_failures_are_matched_with_their_own_instruction_and_do_not_fit(tmp_path: Path) -> None:
    """Their last states belong to another text, which they are never shown with."""
    view = write_view(tmp_path / "store", episodes(4) + episodes(4, succeed=False), DISCRETE_SPACE)
    batch = EndingsFirst(windows_of(view), view, batches=1, seed=0).batch_at(0)
    assert len(rows_to_match(batch)[0]) == len(batch)
    torch.manual_seed(0)
    assert matching_loss(Knows(4.0), batch, SPEC, INSTRUCTIONS).item() == pytest.approx(
        np.log1p(np.exp(-4.0)), rel=1e-4
    )


def test_without_a_success_in_the_batch_nothing_is_learnt(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes(4, succeed=False), DISCRETE_SPACE)
    batch = windows_of(view).batch_at(0)
    assert matching_loss(Knows(-4.0), batch, SPEC, INSTRUCTIONS).item() == 0.0
    assert rows_to_match(batch)[1].sum() == 0


def test_a_network_learns_where_instructions_lead(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes(40) + episodes(40, succeed=False), DISCRETE_SPACE)
    keys = {
        "network": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "dim_head": 8, "dropout": 0.0},
        "objective": {"bootstrap_steps": [1], "matching_weight": 1.0},
        "training": {"steps": 300, "batch_size": 32, "learning_rate": 3e-3, "trackers": [], "threads": 1},
    }
    trainer = make_trainer(from_dict(QTransformerConfig, keys), view, run=tmp_path / "run", seed=0)
    trainer.train()
    model = trainer.model.eval()
    with torch.no_grad():
        states = torch.arange(4.0).repeat_interleave(4)[:, None, None]
        instruction = model.instruct(list(TEXTS) * 4)  # type: ignore[operator]
        logits_EE = model.match_logits(model.encode({"state": states}, instruction)).view(4, 4)  # type: ignore[operator]
    assert torch.equal(logits_EE > 0, torch.eye(4, dtype=torch.bool))


def test_the_first_steps_train_this_head_alone_and_the_rest_everything(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", episodes(8) + episodes(8, succeed=False), DISCRETE_SPACE)
    keys = {
        "network": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "dim_head": 8, "dropout": 0.0},
        "objective": {"bootstrap_steps": [1], "matching_weight": 0.5, "matching_steps": 3},
        "training": {"steps": 5, "batch_size": 8, "trackers": [], "threads": 1, "log_every": 1, "grad_accum_every": 2},
    }
    trainer = make_trainer(from_dict(QTransformerConfig, keys), view, run=tmp_path / "run", seed=0)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    moved: list[set[str]] = []

    def note(state: TrainerState) -> None:
        now = state.model.state_dict()
        moved.append({name for name in now if not torch.equal(now[name], before[name])})

    trainer.callbacks = (note,)
    trainer.train()
    assert any(name.startswith("matching.") for name in moved[2])
    assert not any(name.startswith(("decoder.", "folded_value.")) for name in moved[2])
    assert any(name.startswith("decoder.") for name in moved[3])
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert ["temporal_difference" in row for row in rows] == [False] * 3 + [True] * 2
    assert rows[0]["loss"] == pytest.approx(0.5 * rows[0]["matching"])
    assert all("matching" in row for row in rows)


def test_steps_without_a_head_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"objective.matching_steps: found 5, expected 0 with objective.matching_w"):
        QObjectiveConfig(matching_steps=5)


def test_several_processes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    view = write_view(tmp_path / "store", episodes(8), DISCRETE_SPACE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    config = from_dict(QTransformerConfig, {"objective": {"matching_weight": 1.0, "matching_steps": 3}})
    with pytest.raises(ConfigError, match=r"objective.matching_steps: found 3, expected 0 in training on several"):
        make_trainer(config, view, run=tmp_path / "run", seed=0)
