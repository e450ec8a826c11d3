"""Hand-worked numbers for n-step returns and returns-to-go."""

from __future__ import annotations

import pytest
import torch

from qseq.values import n_step_returns, returns_to_go


def test_horizons_of_one_two_and_three_steps() -> None:
    returns, discounts = n_step_returns(
        torch.tensor([[1.0, 2.0, 4.0]]),
        torch.ones(1, 3, dtype=torch.bool),
        0.5,
        torch.tensor([[1, 2, 3]]),
        torch.zeros(1, 3, dtype=torch.bool),
    )
    assert returns.tolist() == [[1.0, 2.0, 3.0]]
    assert discounts.tolist() == [[0.5, 0.25, 0.125]]


def test_early_end_uses_the_steps_really_taken() -> None:
    """Two steps before the end of an episode that was truncated, then of one that terminated."""
    rewards = torch.tensor([[1.0, 2.0, 77.0]]).repeat(2, 1)
    mask = torch.tensor([[True, True, False]]).repeat(2, 1)
    terminated = torch.tensor([[False, False], [False, True]])
    returns, discounts = n_step_returns(rewards, mask, 0.5, torch.tensor([[1, 2]] * 2), terminated)
    assert returns.tolist() == [[1.0, 2.0], [1.0, 2.0]]
    assert discounts.tolist() == [[0.5, 0.25], [0.5, 0.0]]


def test_rewards_outside_the_episode_never_count() -> None:
    rewards = torch.tensor([[1.0, 5.0]])
    mask = torch.tensor([[True, False]])
    returns, _ = n_step_returns(rewards, mask, 1.0, torch.tensor([[2]]), torch.tensor([[True]]))
    assert returns.tolist() == [[1.0]]


def test_n_step_is_not_n_one_step_backups() -> None:
    """Earlier "n-step" code made n one-step targets; the target of step 0 must hold all n rewards."""
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    mask, terminated = torch.ones(1, 3, dtype=torch.bool), torch.tensor([[True]])
    returns, _ = n_step_returns(rewards, mask, 0.9, torch.tensor([[3]]), terminated)
    assert returns.item() == pytest.approx(0.81)


def test_returns_to_go_by_hand() -> None:
    rewards = torch.tensor([[1.0, 0.0, 4.0]])
    assert returns_to_go(rewards, 0.5).tolist() == [[2.0, 2.0, 4.0]]
    assert returns_to_go(rewards, 0.5, final_value=torch.tensor([8.0])).tolist() == [[3.0, 4.0, 8.0]]
    assert returns_to_go(rewards[0], 1.0, final_value=-1.0).tolist() == [4.0, 3.0, 3.0]


def test_half_precision_rewards_are_summed_in_float32() -> None:
    rewards = torch.full((1, 400), 1.0, dtype=torch.bfloat16)
    assert returns_to_go(rewards, 1.0)[0, 0].item() == 400.0
    returns, _ = n_step_returns(
        rewards, torch.ones(1, 400, dtype=torch.bool), 1.0, torch.tensor([[400]]), torch.tensor([[True]])
    )
    assert returns.item() == 400.0
