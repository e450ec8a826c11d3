"""The token backup, iterated on exact expectations, against exact dynamic programming.

Legend: B transitions, S states, A action tokens of one decision, K bins, O outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from qseq.episodes import Episode
from qseq.values import decision_tokens, n_step_returns, returns_to_go, token_backup
from support.tabular import (
    DISCOUNT,
    Mdp,
    TabularQ,
    chunk_q,
    lottery,
    optimal_q,
    path_episodes,
    prefix_q,
    random_mdp,
    trail_episodes,
)

SEEDS = range(20)


@dataclass
class Transitions:
    """Decisions as flat tensors [B], `tokens` [B, A]; `bounds` are the lower bounds of the targets."""

    states: Tensor
    tokens: Tensor
    returns: Tensor
    discounts: Tensor
    reached: Tensor
    bounds: Tensor | None = None

    @classmethod
    def every_outcome(cls, mdp: Mdp) -> Transitions:
        """Each (state, action, outcome) once: averages over it are exact expectations."""
        states, actions, outcomes = (index.ravel() for index in np.indices(mdp.next_states.shape))
        alive = ~mdp.terminal[states]
        states, actions, outcomes = states[alive], actions[alive], outcomes[alive]
        reached = mdp.next_states[states, actions, outcomes]
        returns, discounts = n_step_returns(
            torch.from_numpy(mdp.rewards[states, actions, outcomes]).unsqueeze(1),
            torch.ones(len(states), 1, dtype=torch.bool),
            DISCOUNT,
            torch.ones(len(states), 1, dtype=torch.int64),
            torch.from_numpy(mdp.terminal[reached]).unsqueeze(1),
        )
        return cls(
            torch.from_numpy(states),
            torch.from_numpy(mdp.tokens(actions)),
            returns[:, 0],
            discounts[:, 0],
            torch.from_numpy(reached),
        )


def solve(data: Transitions, table: TabularQ, *, carry: bool = False) -> None:
    """Set every cell of the table to the mean of its targets, again and again until nothing changes."""
    table.double()
    cells = table.cells(data.states, data.tokens)
    visits = table.sums(cells, torch.ones_like(data.tokens))
    bounds_B1 = None if data.bounds is None else data.bounds.unsqueeze(1)
    for _ in range(5000):
        with torch.no_grad():
            prefix_values_BA = table(data.states, data.tokens).amax(-1)
            next_values_B = table.tables[0][data.reached, 0].amax(-1)
        layout = decision_tokens(prefix_values_BA, next_values_B, data.returns, data.discounts)
        sums = table.sums(cells, token_backup(*layout, bounds_B1, carry=carry))
        change = 0.0
        with torch.no_grad():
            for part, sum_, count in zip(table.tables, sums, visits, strict=True):
                updated = sum_ / count.clamp_min(1)
                change = max(change, (updated - part).abs().max().item())
                part.copy_(updated)
        if change < 1e-7:
            return
    raise AssertionError("the backup did not converge")


def table_for(mdp: Mdp) -> TabularQ:
    return TabularQ(mdp.num_states, mdp.num_dimensions, mdp.num_bins)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_prefix_of_stochastic_worlds(seed: int) -> None:
    mdp = random_mdp(seed)
    table = table_for(mdp)
    solve(Transitions.every_outcome(mdp), table)
    assert 0.9 < optimal_q(mdp).max() < 1.0
    assert table.worst_error(prefix_q(optimal_q(mdp), 3, 4), ~mdp.terminal) < 1e-4


@pytest.mark.parametrize("seed", SEEDS)
def test_carry_and_monte_carlo_bound_are_exact_in_deterministic_worlds(seed: int) -> None:
    mdp = random_mdp(seed, num_outcomes=1)
    data = transitions_of(mdp, trail_episodes(mdp, seed))
    table = table_for(mdp)
    solve(data, table, carry=True)
    assert table.worst_error(prefix_q(optimal_q(mdp), 3, 4), ~mdp.terminal) < 1e-4


@pytest.mark.parametrize("num_dimensions", [1, 3])
def test_bounds_are_biased_upward_in_stochastic_worlds(num_dimensions: int) -> None:
    """By how much: a prize won once in four draws is worth .25, and gamma * .25 one step before.

    Each token whose target may be lifted by luck wins where the one after it lost, so p becomes 1 - (1 - p)^tokens.
    """
    mdp = lottery(num_dimensions)
    paths = path_episodes(mdp, 2, np.zeros((4, 1), np.int64))
    values = {}
    for name, carry, bounded in (("neither", False, False), ("carry", True, False), ("bound", False, True)):
        data, table = transitions_of(mdp, paths), table_for(mdp)
        if not bounded:
            data.bounds = None
        solve(data, table, carry=carry)
        values[name] = table.q()[0][2:, 0].max(axis=1)  # start, draw
    lifted = 1 - 0.75**num_dimensions
    assert values["neither"] == pytest.approx([DISCOUNT * 0.25, 0.25], abs=1e-5)
    assert values["carry"] == pytest.approx([DISCOUNT * lifted, lifted], abs=1e-5)
    assert values["bound"] == pytest.approx([DISCOUNT * (1 - 0.75 ** (2 * num_dimensions)), lifted], abs=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_carry_is_biased_upward_in_random_stochastic_worlds(seed: int) -> None:
    mdp = random_mdp(seed)
    table = table_for(mdp)
    solve(Transitions.every_outcome(mdp), table, carry=True)
    bias = (table.q()[-1] - prefix_q(optimal_q(mdp), 3, 4)[-1])[~mdp.terminal]
    assert bias.min() > -1e-4
    assert bias.mean() > 0.05


@pytest.mark.parametrize("seed", range(10))
def test_chunks_of_two_actions_in_deterministic_worlds(seed: int) -> None:
    """A chunk is one decision of 2 A tokens with the return of two steps; both its halves must be right."""
    mdp = random_mdp(seed, num_dimensions=2, num_bins=3, num_outcomes=1)
    single = Transitions.every_outcome(mdp)
    pairs = np.indices((len(single.states), mdp.num_actions)).reshape(2, -1)
    first, second = torch.from_numpy(pairs[0]), torch.from_numpy(pairs[1])
    middle = single.reached[first]
    ended = torch.from_numpy(mdp.terminal)[middle]
    rewards = torch.stack([single.returns[first], torch.from_numpy(mdp.rewards[:, :, 0])[middle, second]], dim=1)
    reached = torch.where(ended, middle, torch.from_numpy(mdp.next_states[:, :, 0])[middle, second])
    returns, discounts = n_step_returns(
        rewards,
        torch.stack([torch.ones_like(ended), ~ended], dim=1),
        DISCOUNT,
        torch.where(ended, 1, 2).unsqueeze(1),
        torch.from_numpy(mdp.terminal)[reached].unsqueeze(1),
    )
    tokens = torch.cat([single.tokens[first], torch.from_numpy(mdp.tokens(pairs[1]))], dim=1)
    data = Transitions(single.states[first], tokens, returns[:, 0], discounts[:, 0], reached)
    table = TabularQ(mdp.num_states, 4, 3)
    solve(data, table)
    assert table.worst_error(prefix_q(chunk_q(mdp, 2), 4, 3), ~mdp.terminal) < 1e-4
    assert np.allclose(table.q()[1].reshape(mdp.num_states, -1), optimal_q(mdp), atol=1e-4)


@pytest.mark.parametrize("seed", range(5))
def test_reversed_rewards_reverse_the_greedy_action(seed: int) -> None:
    """In worlds of one step the best action of the reversed rewards is the worst of the true ones."""
    mdp = random_mdp(seed, num_outcomes=2)
    rewards = np.random.default_rng(seed).random(mdp.rewards.shape)
    mdp = Mdp(3, 4, np.zeros_like(mdp.next_states), rewards, mdp.terminal)
    for world in (mdp, mdp.with_rewards(1.0 - rewards)):
        table = table_for(world)
        solve(Transitions.every_outcome(world), table)
        best = table.q()[-1].reshape(mdp.num_states, -1).argmax(axis=1)
        true_rewards = mdp.rewards.mean(axis=2)
        expected = true_rewards.argmax(axis=1) if world is mdp else true_rewards.argmin(axis=1)
        assert (best == expected)[~mdp.terminal].all()


def transitions_of(mdp: Mdp, episodes: list[Episode]) -> Transitions:
    """Every step of the episodes, with its return-to-go as its lower bound."""
    states, tokens, returns, discounts, reached, bounds = [], [], [], [], [], []
    for episode in episodes:
        index = episode.observations["state"].argmax(axis=1)
        states.append(index[:-1])
        reached.append(index[1:])
        tokens.append(episode.actions)
        returns.append(episode.rewards)
        discounts.append(np.where(mdp.terminal[index[1:]], 0.0, DISCOUNT))
        bounds.append(returns_to_go(torch.from_numpy(episode.rewards), DISCOUNT).numpy())
    parts = (torch.from_numpy(np.concatenate(part)) for part in (states, tokens, returns, discounts, reached, bounds))
    states_B, tokens_BA, returns_B, discounts_B, reached_B, bounds_B = parts
    return Transitions(states_B, tokens_BA, returns_B.double(), discounts_B, reached_B, bounds_B.double())
