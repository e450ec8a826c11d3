"""A Q-Transformer run that crashed and was resumed gives the numbers of one that did not, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qseq.configuration import from_dict
from qseq.episodes import EpisodeView
from qseq.robot.algorithm import make_trainer
from qseq.robot.config import QTransformerConfig
from qseq.training import TrainerState
from tests.robot.bandit import corner_episodes, write_view

CONFIG = {
    "actions": {"num_bins": 4},
    "network": {"dim": 16, "heads": 2, "dim_head": 8, "decoder_heads": 2, "decoder_dim_head": 8, "dropout": 0.1},
    "objective": {"bootstrap_steps": [1]},
    "training": {"steps": 40, "batch_size": 32, "checkpoint_every": 10, "log_every": 1, "trackers": [], "threads": 1},
}


class CrashError(Exception):
    pass


OPTIONS = {
    "network": {"head": {"dimension_order": "random", "dual_critics": True}},
    "objective": {"bootstrap": "max", "double_q": True, "regenerative_weight": 1e-3},
}
"""Everything that draws random numbers or remembers something besides the weights."""


def run(
    view: EpisodeView,
    folder: Path,
    options: Mapping[str, Any],
    *,
    crash_at: int | None = None,
    resume: bool = False,
) -> None:
    tree = {key: {**value, **options.get(key, {})} for key, value in CONFIG.items()}
    trainer = make_trainer(from_dict(QTransformerConfig, tree), view, run=folder, seed=3)

    def crash(state: TrainerState) -> None:
        if state.step == crash_at:
            raise CrashError

    trainer.callbacks = (crash,)
    trainer.train(resume=resume)


def numbers(folder: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("steps_per_second", "waiting_for_data")}
        for line in lines
    ]


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
def test_crashed_and_resumed_equals_uninterrupted(tmp_path: Path, options: dict[str, Any]) -> None:
    view = write_view(tmp_path / "store", corner_episodes(200))
    run(view, tmp_path / "whole", options)
    for crash_at, resume in ((7, False), (25, True), (33, True)):
        with pytest.raises(CrashError):
            run(view, tmp_path / "broken", options, crash_at=crash_at, resume=resume)
    run(view, tmp_path / "broken", options, resume=True)
    assert numbers(tmp_path / "broken") == numbers(tmp_path / "whole")
    for name in ("model", "target"):
        files = [
            tmp_path / run / "checkpoints" / "step_00000040" / f"{name}.safetensors" for run in ("whole", "broken")
        ]
        whole, broken = (load_file(file) for file in files)
        assert whole.keys() == broken.keys()
        assert all(torch.equal(whole[key], broken[key]) for key in whole)
