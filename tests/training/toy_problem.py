"""A small regression problem with dropout, for the trainer's tests; as a script it trains one run."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qseq.configuration import from_dict
from qseq.errors import DataError
from qseq.training import Losses, Trainer, TrainingConfig


class ToyModel(nn.Module):
    def __init__(self, *, dropout: float = 0.3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.body = nn.Sequential(nn.Linear(4, 16), nn.LayerNorm(16), nn.Tanh(), nn.Dropout(dropout))
            self.head = nn.Linear(16, 1)

    def forward(self, x_BD: Tensor) -> Tensor:
        y_B1: Tensor = self.head(self.body(x_BD))
        return y_B1.squeeze(-1)


class ToyObjective:
    """Squared error to the truth, and a little to the target model, so that the moving average matters."""

    def loss(self, batch: dict[str, Tensor], online: nn.Module, target: nn.Module | None) -> Losses:
        prediction_B = online(batch["x"])
        error = (prediction_B - batch["y"]).square().mean()
        if target is None:
            return Losses(error, {"error": error})
        with torch.no_grad():
            assert not target.training
            anchor_B = target(batch["x"])
        anchor = (prediction_B - anchor_B).square().mean()
        return Losses(error + 0.1 * anchor, {"error": error, "anchor": anchor})


class ToyBatches:
    """Args: delay: seconds that a batch takes. fails_at: index of the one that cannot be read; kills_at: or kills."""

    def __init__(
        self,
        batch_size: int = 8,
        *,
        delay: float = 0.0,
        fails_at: int | None = None,
        kills_at: int | None = None,
    ) -> None:
        self.batch_size = batch_size
        self.delay, self.fails_at, self.kills_at = delay, fails_at, kills_at

    def batch_at(self, index: int) -> dict[str, Tensor]:
        time.sleep(self.delay)
        if index == self.fails_at:
            raise DataError("episode 3 is damaged")
        if index == self.kills_at:
            os.kill(os.getpid(), signal.SIGKILL)
        generator = torch.Generator().manual_seed(index)
        x_BD = torch.randn(self.batch_size, 4, generator=generator)
        return {"x": x_BD, "y": x_BD.sum(dim=-1).sin()}


def toy_config(**settings: Any) -> TrainingConfig:
    quiet = {"steps": 12, "warmup_steps": 3, "log_every": 1, "checkpoint_every": 4, "trackers": (), "threads": 1}
    return TrainingConfig(**{**quiet, **settings})


def toy_trainer(run: Path, config: TrainingConfig, **settings: Any) -> Trainer:
    parts = {"objective": ToyObjective(), "batches": ToyBatches(), "seed": 1, **settings}
    parts.setdefault("model", ToyModel())
    return Trainer(config=config, run=run, **parts)


def train_as_asked(request: dict[str, Any]) -> None:
    """`request`: {"run": FOLDER, "resume": bool, "batches": {...}, "dropout": fraction, "config": {...}}."""
    config = from_dict(TrainingConfig, request["config"])
    model, batches = ToyModel(dropout=request["dropout"]), ToyBatches(**request["batches"])
    toy_trainer(Path(request["run"]), config, model=model, batches=batches).train(resume=request["resume"])


def train_each_line_in_a_process() -> None:
    """Fork a process for each request on stdin and print its id: importing torch anew would take seconds."""
    importlib.import_module("torch._dynamo")  # else each process would, at its first optimiser step
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not kept
    for line in sys.stdin:
        process_id = os.fork()
        if process_id == 0:
            train_as_asked(json.loads(line))
            os._exit(0)
        print(process_id, flush=True)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        train_as_asked(json.loads(sys.argv[1]))
    else:
        train_each_line_in_a_process()
