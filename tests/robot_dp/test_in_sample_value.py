"""The in-sample backup (bootstrap="expectile") against exact solutions.

Its mean is policy evaluation, and the expectile climbs from there towards the optimum.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qseq.networks.text import Instruction
from robot_dp.learning import learn_by_adam, set_up
from support.tabular import DISCOUNT, Mdp, TabularQ, optimal_q, random_mdp, stored, trail_episodes


class TabularQAndValue(TabularQ):
    """With a table of the states' values beside those of the prefixes."""

    def __init__(self, num_states: int, num_tokens: int, num_bins: int, folds: int = 1) -> None:
        super().__init__(num_states, num_tokens, num_bins)
        self.table_SK = nn.Parameter(torch.zeros(num_states, folds))

    def state_values(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor]
    ) -> Tensor:
        return self.table_SK[observation["state"][:, 0].argmax(dim=-1)]


def value_of_uniform_policy(mdp: Mdp) -> np.ndarray:
    values = np.zeros(mdp.num_states)
    for _ in range(2000):
        outcomes = mdp.rewards + DISCOUNT * values[mdp.next_states]
        values = np.where(mdp.terminal, 0.0, outcomes.mean(axis=(1, 2)))
    return values


def learn_values(mdp: Mdp, folder: Path, seed: int, expectile: float) -> tuple[np.ndarray, TabularQAndValue]:
    view = stored(trail_episodes(mdp, seed, max_steps=5), mdp, folder)
    setting = set_up(mdp, view, bootstrap="expectile", expectile=expectile)
    table = TabularQAndValue(mdp.num_states, mdp.num_dimensions, mdp.num_bins)
    setting.table = table
    learn_by_adam(setting, updates=1500, learning_rate=0.02)
    return table.table_SK.detach().numpy()[:, 0], table


@pytest.mark.parametrize("seed", range(3))
def test_the_mean_is_policy_evaluation_of_the_behaviour(seed: int, tmp_path: Path) -> None:
    mdp = random_mdp(seed, num_dimensions=2)
    found, table = learn_values(mdp, tmp_path / "store", seed, expectile=0.5)
    exact = value_of_uniform_policy(mdp)
    assert np.abs(found - exact)[~mdp.terminal].max() < 0.02
    # Q of the last token is the value of the whole action, followed by the behaviour.
    outcomes = (mdp.rewards + DISCOUNT * exact[mdp.next_states]).mean(axis=2)
    q = table.q()[-1].reshape(mdp.num_states, -1)
    assert np.abs(q - outcomes)[~mdp.terminal].max() < 0.02


@pytest.mark.parametrize("seed", range(2))
def test_a_higher_expectile_climbs_towards_the_optimum_and_not_beyond(seed: int, tmp_path: Path) -> None:
    mdp = random_mdp(seed, num_dimensions=2, num_outcomes=1)
    best = optimal_q(mdp).max(axis=1)
    gaps = []
    for expectile in (0.5, 0.8, 0.99):
        found, _ = learn_values(mdp, tmp_path / str(expectile), seed, expectile)
        assert (found <= best + 0.02)[~mdp.terminal].all()
        gaps.append(np.abs(found - best)[~mdp.terminal].mean())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.5 * gaps[0]
