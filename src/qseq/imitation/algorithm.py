"""Behaviour cloning as an algorithm the command line can train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from qseq.episodes import EpisodeView
from qseq.imitation.config import CloningConfig
from qseq.imitation.objective import CloningObjective
from qseq.imitation.policy import CloningPolicy
from qseq.policies import write_description
from qseq.policies.preparation import open_view, prepare
from qseq.training import Trainer


def make_trainer(config: CloningConfig, view: EpisodeView, *, run: Path, seed: int) -> Trainer:
    """Everything that training needs, put together."""
    prepared = prepare(
        view,
        data=config.data,
        actions=config.actions,
        network=config.network,
        bootstrap_steps=(),
        discount=1.0,
        min_return=0.0,
        batch_size=config.training.batch_size,
        seed=seed,
        extra={},
    )
    spec = prepared.policy_spec
    torch.manual_seed(seed)
    return Trainer(
        CloningObjective(spec.tokenizer, prepared.window_spec, prepared.instructions),
        CloningPolicy.build_network(spec, prepared.layouts),
        prepared.windows,
        config.training,
        run=run,
        seed=seed,
        save_model=lambda _, folder: write_description(CloningPolicy.kind, spec, folder),
        has_target=False,
        run_config=replace(config, network=spec.network),
    )


def train(config: CloningConfig, *, data: Sequence[str], run: Path, seed: int = 0, resume: bool = False) -> Path:
    """Train into the run folder; returns the final checkpoint."""
    return make_trainer(config, open_view(data, config.data), run=run, seed=seed).train(resume=resume)
