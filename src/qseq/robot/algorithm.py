"""The Q-Transformer as an algorithm the command line can train."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from qseq.configuration import to_dict
from qseq.episodes import EpisodeView
from qseq.errors import ConfigError
from qseq.policies import write_description
from qseq.policies.preparation import open_view, prepare
from qseq.robot.checks import check_mismatched, check_value_range
from qseq.robot.config import QTransformerConfig
from qseq.robot.decoding import checked_order
from qseq.robot.objective import make_objective
from qseq.robot.policy import QTransformerPolicy
from qseq.training import Trainer


def make_trainer(config: QTransformerConfig, view: EpisodeView, *, run: Path, seed: int) -> Trainer:
    """Everything that training needs, put together.

    Raises:
        ConfigError: a chunk of several actions with other horizons than its own, returns outside the value's range, or
            options that do not go together.
        RequestError: an order of decoding that is none, or that the network is not trained for.
    """
    objective = config.objective
    if config.actions.chunk > 1 and objective.bootstrap_steps != (config.actions.chunk,):
        raise ConfigError(
            f"objective.bootstrap_steps: found {list(objective.bootstrap_steps)}, expected [{config.actions.chunk}], "
            "the length of actions.chunk: a chunk is one decision, and the next decision comes after it"
        )
    if objective.matching_steps and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        # Replicated training waits for the gradient of every weight, and these steps have those of one head only.
        raise ConfigError(
            f"objective.matching_steps: found {objective.matching_steps}, expected 0 in training on several processes"
        )
    check_mismatched(objective, view, config.network.text)
    check_value_range(objective, view, "widen the range, or set objective.value=unbounded")
    prepared = prepare(
        view,
        data=config.data,
        actions=config.actions,
        network=config.network,
        bootstrap_steps=objective.bootstrap_steps,
        discount=objective.discount,
        min_return=objective.value_low if objective.value != "unbounded" else float("-inf"),
        batch_size=config.training.batch_size,
        seed=seed,
        extra={
            "value": objective.value_arguments(),
            "initial_value": objective.initial_value,
            "value_folds": objective.state_value_networks,
            "prior": objective.prior_weight > 0,
            "matching": objective.matching_weight > 0,
            "decoding": to_dict(config.decoding),
        },
        endings_first=objective.matching_steps * config.training.grad_accum_every,
    )
    torch.manual_seed(seed)
    network = QTransformerPolicy.build_network(prepared.policy_spec, prepared.layouts)
    checked_order(network, config.decoding.order, 1)
    spec = prepared.policy_spec
    return Trainer(
        make_objective(objective, spec.tokenizer, prepared.window_spec, prepared.instructions, config.network.head),
        network,
        prepared.windows,
        config.training,
        run=run,
        seed=seed,
        save_model=lambda _, folder: write_description(QTransformerPolicy.kind, prepared.policy_spec, folder),
        run_config=replace(config, network=prepared.policy_spec.network),
    )


def train(config: QTransformerConfig, *, data: Sequence[str], run: Path, seed: int = 0, resume: bool = False) -> Path:
    """Train into the run folder; returns the final checkpoint."""
    return make_trainer(config, open_view(data, config.data), run=run, seed=seed).train(resume=resume)
