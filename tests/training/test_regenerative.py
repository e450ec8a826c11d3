"""The pull to the initial weights, and that a resumed run pulls to the same ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qseq.training import Losses, Regenerative, Trainer, TrainingConfig, load_tensors


class Line(nn.Module):
    def __init__(self, start: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([start, 2.0]))
        self.frozen = nn.Parameter(torch.tensor([start]), requires_grad=False)


class FirstWeight:
    def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
        return Losses(total=(online.weight[0] - 5.0).square())  # type: ignore[index]


class NoBatches:
    def batch_at(self, index: int) -> torch.Tensor:
        return torch.zeros(1)


def test_the_distance_is_that_to_the_weights_at_the_first_loss() -> None:
    objective, line = Regenerative(FirstWeight(), 0.1), Line(1.0)
    assert objective.loss(None, line, None).total.item() == pytest.approx(16.0)
    with torch.no_grad():
        line.weight += torch.tensor([1.0, -3.0])
        line.frozen += 100.0
    losses = objective.loss(None, line, None)
    assert losses.total.item() == pytest.approx(9.0 + 0.1 * (1.0 + 9.0))
    losses.total.backward()
    torch.testing.assert_close(line.weight.grad, torch.tensor([-6.0 + 0.2, -0.6]))


def test_a_resumed_run_pulls_to_the_same_weights_whatever_its_model_was_built_with(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"checkpoint_every": 5, "log_every": 1, "trackers": (), "learning_rate": 0.1}
    ends = []
    for name, parts in (("whole", (10,)), ("broken", (5, 10))):
        for number, steps in enumerate(parts):
            line = Line(1.0 + 7.0 * number)
            Trainer(
                Regenerative(FirstWeight(), 0.5),
                line,
                NoBatches(),
                TrainingConfig(steps=steps, **settings),
                run=tmp_path / name,
                has_target=False,
            ).train(resume=number > 0)
        ends.append(line.weight.detach().clone())
        stored = load_tensors(tmp_path / name / "checkpoints" / "step_00000010" / "objective.safetensors")
        torch.testing.assert_close(stored["weight"], torch.tensor([1.0, 2.0]))
        assert "frozen" not in stored
    assert torch.equal(ends[0], ends[1])
