"""Train a table with the real robot objective on the real windows of a real store.

Legend: B batch, A action tokens of one decision.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qseq.actions import ActionTokenizer, make_tokenizer
from qseq.episodes import EpisodeView, WindowBatch, Windows, WindowSpec
from qseq.robot.objective import QObjective, QObjectiveConfig
from support.tabular import DISCOUNT, Floats, Mdp, TabularQ


@dataclass
class Setting:
    """The objective, all windows of the data as one batch, and a table to train."""

    objective: QObjective
    batch: WindowBatch
    table: TabularQ
    visits: list[Tensor]

    def worst_error(self, expected: list[Floats]) -> float:
        """Over every cell that the data reach."""
        return self.table.worst_error(expected, self.visits)


def set_up(
    mdp: Mdp,
    view: EpisodeView,
    *,
    horizons: tuple[int, ...] = (1,),
    chunk: int = 1,
    first_steps_only: bool = False,
    initial: float = 0.0,
    **options: Any,
) -> Setting:
    """The plain backup (no bound, no carry, no regulariser, unbounded values) unless `options` say otherwise."""
    plain = {
        "bootstrap": "max",
        "monte_carlo_bound": False,
        "carry": False,
        "conservative_weight": 0.0,
        "value": "unbounded",
    }
    config = QObjectiveConfig(discount=DISCOUNT, bootstrap_steps=horizons, **{**plain, **options})  # type: ignore[arg-type]
    spec = WindowSpec(bootstrap_steps=horizons, num_action_steps=max(*horizons, chunk))
    tokenizer = make_tokenizer(mdp.action_space, chunk=chunk)
    objective = QObjective(tokenizer, spec, config, torch.zeros(1, 1, dtype=torch.int64))
    windows = Windows(view, spec, batch_size=view.num_steps, seed=0, discount=DISCOUNT)
    if first_steps_only:
        batch = windows.windows_at(np.arange(view.num_episodes), np.zeros(view.num_episodes, np.int64))
    else:
        batch = windows.batch_at(0)
    table = TabularQ(mdp.num_states, tokenizer.num_tokens, mdp.num_bins, objective.values, initial)
    return Setting(objective, batch, table, cell_visits(mdp, batch, tokenizer, chunk))


def cell_visits(mdp: Mdp, batch: WindowBatch, tokenizer: ActionTokenizer, chunk: int) -> list[Tensor]:
    """How many tokens of the batch fall into each cell; tokens beyond the end of an episode do not count."""
    actions = batch.actions[:, :chunk] if chunk > 1 else batch.actions[:, 0]
    weights_BA = batch.step_mask[:, :chunk].repeat_interleave(mdp.num_dimensions, dim=1).double()
    table = TabularQ(mdp.num_states, tokenizer.num_tokens, mdp.num_bins)
    return table.sums(table.cells(batch.frames["state"][:, 0].argmax(-1), tokenizer.encode(actions)), weights_BA)


def learn_by_averages(setting: Setting, updates: int = 2000, tolerance: float = 1e-5) -> None:
    """Gradient descent whose step in each cell is the inverse of the share of tokens that fall into it.

    The gradient of half a mean of squares is `share * (value - mean target)`, so one step sets the cell to its mean
    target: no step size to choose, and the only error left is that of the backups themselves.
    """
    total = torch.stack([visits.sum() for visits in setting.visits]).sum()
    shares = [visits / total for visits in setting.visits]
    tables = list(setting.table.parameters())
    target = copy.deepcopy(setting.table).requires_grad_(False)
    for _ in range(updates):
        gradients = torch.autograd.grad(setting.objective.loss(setting.batch, setting.table, target).total, tables)
        change = 0.0
        with torch.no_grad():
            for table, slow, gradient, share in zip(tables, target.parameters(), gradients, shares, strict=True):
                step = torch.where(share > 0, gradient / share.clamp_min(1e-12), 0.0)
                table -= step
                slow.copy_(table)
                change = max(change, step.abs().max().item())
        if change < tolerance:
            return
    raise AssertionError(f"no convergence after {updates} updates")


def learn_by_adam(setting: Setting, updates: int, learning_rate: float) -> None:
    """Adam on full batches with a decaying step size and a moving-average target, for values that are not linear."""
    target = copy.deepcopy(setting.table).requires_grad_(False)
    optimiser = torch.optim.Adam(setting.table.parameters(), lr=learning_rate, betas=(0.8, 0.99))
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimiser, gamma=0.02 ** (1 / updates))
    for _ in range(updates):
        optimiser.zero_grad()
        setting.objective.loss(setting.batch, setting.table, target).total.backward()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for slow, fast in zip(target.parameters(), setting.table.parameters(), strict=True):
                slow.lerp_(fast, 0.5)
