"""A mean over the tokens of several batches is no mean of their means; every family says what its means are over."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.utils import DistributedType  # type: ignore[import-untyped]
from torch import Tensor, nn

from qseq.configuration import load_config
from qseq.errors import ConfigError
from qseq.language import QRLHFConfig
from qseq.language.algorithm import prepare
from qseq.language.batch import collate
from qseq.language.batches import TextBatches
from qseq.language.preparation import gather_rows
from qseq.planner import DiffuserConfig
from qseq.planner.algorithm import make_trainer
from qseq.planner.batches import PlanBatch
from qseq.policies.data import DataConfig, open_view
from qseq.training import Losses, Regenerative, Trainer
from qseq.training.learner import check_accelerator
from qseq.training.sharding import blocks_of, recompute_activations
from qseq.training.shares import shares_of, weigh
from training import families
from training.toy_problem import ToyObjective, toy_config

ALONE: Any = SimpleNamespace(num_processes=1)


def test_shares_make_one_mean_of_two() -> None:
    values = [torch.tensor([1.0, 2.0, 6.0]), torch.tensor([5.0])]
    counts = [{"loss": torch.tensor(len(part)), "other": torch.tensor(1)} for part in values]
    shares = shares_of(counts, ALONE)
    assert [float(share["loss"]) for share in shares] == [1.5, 0.5]
    means = [
        weigh(Losses(part.mean(), {"other": part.mean()}), share) for part, share in zip(values, shares, strict=True)
    ]
    assert float(sum(total for total, _ in means) / 2) == pytest.approx(14 / 4)
    assert float(sum(terms["other"] for _, terms in means) / 2) == pytest.approx(4.0)


def test_equal_counts_change_no_bit() -> None:
    shares = shares_of([{"a": torch.tensor(7)}] * 3, ALONE)
    losses = Losses(torch.tensor(0.1) + torch.tensor(0.7), {"a": torch.tensor(0.1)}, {"a": torch.tensor(0.1)})
    for share in shares:
        total, terms = weigh(losses, share)
        assert total == losses.total
        assert terms["a"] == losses.terms["a"]


def test_nothing_counted_anywhere_is_worth_nothing() -> None:
    shares = shares_of([{"a": torch.tensor(0)}] * 2, ALONE)
    assert weigh(Losses(torch.tensor(2.0), {}, {"a": torch.tensor(0.0)}), shares[0])[0] == 2.0


def weighed(trainer: Trainer, batches: list[Any]) -> dict[str, Tensor]:
    """Terms, total and gradient of a step of several batches."""
    objective: Any = trainer.objective
    model = trainer.model.eval()
    model.zero_grad()
    shares = shares_of([objective.counts(batch) for batch in batches], ALONE) if len(batches) > 1 else [{}]
    parts = []
    for batch, share in zip(batches, shares, strict=True):
        total, terms = weigh(objective.loss(batch, model, model), share)
        (total / len(batches)).backward()
        parts.append({"loss": total.detach(), **{name: term.detach() for name, term in terms.items()}})
    found = {name: torch.stack([part[name] for part in parts]).mean() for name in parts[0]}
    gradients = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return found | {"gradient": torch.cat(gradients)}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return families.write_data(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("case", ["language", "language-expectile"])
def test_language(tmp_path: Path, data: Path, case: str) -> None:
    config = load_config(QRLHFConfig, overrides=[*families.TRAINING, *families.CASES[case].overrides])
    trainer = prepare(config, gather_rows([str(data / "rows.jsonl")], config.data), run=tmp_path, seed=0).trainer
    batches = trainer.batches
    assert isinstance(batches, TextBatches)
    both = collate([batches.texts[row] for index in (0, 1) for row in batches.rows_at(index)])
    split = [collate([batches.texts[row] for row in batches.rows_at(index)]) for index in (0, 1)]
    assert split[0].mask.sum() != split[1].mask.sum()
    torch.testing.assert_close(weighed(trainer, split), weighed(trainer, [both]), rtol=1e-4, atol=1e-6)


def test_planner(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)  # the noise of two batches is not that of one
    monkeypatch.setattr(torch, "randint", lambda high, size, **_: torch.full(size, high // 2))
    config = load_config(DiffuserConfig, overrides=[*families.TRAINING, *families.PLANS])
    trainer = make_trainer(config, open_view([str(data / "episodes")], DataConfig()), run=tmp_path, seed=0)
    split = [trainer.batches.batch_at(index) for index in (0, 1)]
    both = PlanBatch(**{f.name: torch.cat([getattr(part, f.name) for part in split]) for f in fields(PlanBatch)})
    counts = [trainer.objective.counts(part) for part in split]  # type: ignore[attr-defined]
    assert any(counts[0][name] != counts[1][name] for name in counts[0])
    torch.testing.assert_close(weighed(trainer, split), weighed(trainer, [both]), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", ["robot", "robot-max"])
def test_robot(tmp_path: Path, data: Path, case: str) -> None:
    # With an epsilon as small as usual, AdamW makes whole steps of the last bits of gradients that are nearly zero.
    for name, settings in (("split", ["training.grad_accum_every=2"]), ("whole", ["training.batch_size=12"])):
        request = {"case": case, "data": str(data), "run": str(tmp_path / name)}
        families.train(
            {**request, "set": ["training.steps=3", "network.dropout=0.0", "training.adam_epsilon=1e-3", *settings]}
        )
    difference, where = families.largest_difference(tmp_path / "split", tmp_path / "whole")
    assert difference < 1e-5, where


# --- blocks ----------------------------------------------------------------------------------------------------------


class Stack(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5)) for _ in range(3))

    def forward(self, x_BD: Tensor) -> Tensor:
        for block in self.blocks:
            x_BD = block(x_BD)
        return x_BD


def test_recomputed_activations_change_no_gradient() -> None:
    model, calls = Stack(), []
    model.blocks[0][0].register_forward_hook(lambda *_: calls.append(1))  # type: ignore[index]
    gradients = []
    for recompute in (False, True):
        if recompute:
            recompute_activations(model)
        torch.manual_seed(0)
        model.zero_grad()
        model(torch.ones(5, 4)).square().sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(gradients[0], gradients[1], rtol=0, atol=0)
    assert len(calls) == 3  # forward; forward and again on the way back
    assert list(model.state_dict()) == list(Stack().state_dict())


def test_blocks_are_the_outermost_lists() -> None:
    outer = nn.ModuleDict({"tower": Stack(), "other": nn.ModuleList([nn.Linear(2, 2)])})
    outer["tower"].blocks[0].blocks = nn.ModuleList([nn.Linear(2, 2)])  # type: ignore[union-attr, index]
    assert list(blocks_of(outer)) == ["tower.blocks.0", "tower.blocks.1", "tower.blocks.2"]


@pytest.mark.parametrize(
    ("settings", "objective", "message"),
    [
        ({"parallel": "fsdp"}, Regenerative(ToyObjective(), 0.1), r"training\.parallel: found fsdp, expected ddp with"),
        ({"parallel": "fsdp", "compile": True}, ToyObjective(), r"training\.parallel: found fsdp, expected ddp with"),
        ({"precision": "bf16"}, ToyObjective(), r"training\.precision: found bf16"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: dict[str, Any], objective: Any, message: str) -> None:
    launched: Any = SimpleNamespace(
        distributed_type=DistributedType.MULTI_CPU,
        num_processes=2,
        mixed_precision="fp16",
        gradient_accumulation_steps=1,
    )
    with pytest.raises(ConfigError, match=message):
        check_accelerator(launched, toy_config(**settings), objective)
