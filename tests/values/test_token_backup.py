"""Hand-worked numbers for the token backup and the layouts made for it.

Legend: B batch, A action tokens of one decision, M bootstrap horizons.
"""

from __future__ import annotations

import pytest
import torch

from qseq.values import decision_tokens, horizon_values, n_step_returns, token_backup


def row(*numbers: float) -> torch.Tensor:
    return torch.tensor([numbers])


def test_target_is_reward_plus_discounted_next_value() -> None:
    targets = token_backup(row(0, 1, 2), row(1, 0.5, 0), row(4, 8, 99))
    assert targets.tolist() == [[4, 5, 2]]


def test_lower_bound_is_per_transition_and_in_value_space() -> None:
    rewards, discounts = torch.zeros(2, 2), torch.ones(2, 2)
    values = torch.tensor([[0.3, 0.6], [0.3, 0.6]])
    bounds = torch.tensor([[0.5, 0.5], [0.1, 0.1]])
    expected = torch.tensor([[0.5, 0.6], [0.3, 0.6]])
    assert torch.equal(token_backup(rewards, discounts, values, bounds), expected)
    assert torch.equal(token_backup(rewards, discounts, values, bounds[:, :1]), expected)


def test_carry_takes_a_reward_across_the_whole_decision() -> None:
    rewards, discounts, values = row(0, 0, 1), row(1, 1, 0.9), row(0.2, 0.3, 0)
    assert token_backup(rewards, discounts, values).tolist() == [pytest.approx([0.2, 0.3, 1.0])]
    assert token_backup(rewards, discounts, values, carry=True).tolist() == [[1, 1, 1]]


def test_carry_discounts_and_adds_the_rewards_between() -> None:
    targets = token_backup(row(1, 2, 4), row(0.5, 0.5, 0), row(0, 9, 0), carry=True)
    # last: 4; middle: max(2 + .5 * 9, 2 + .5 * 4) = 6.5; first: max(1, 1 + .5 * 6.5) = 4.25
    assert targets.tolist() == [[4.25, 6.5, 4.0]]


def test_carry_passes_a_lower_bound_back() -> None:
    targets = token_backup(row(0, 0), row(1, 1), row(0, 0), row(0, 0.7), carry=True)
    assert targets.tolist() == [pytest.approx([0.7, 0.7])]


def test_carry_stops_where_an_episode_ends_inside_a_row() -> None:
    layout = row(0, 1, 0, 0), row(1, 0.5, 1, 0), row(0, 0, 7, 9)
    follows = torch.tensor([[True, False, True, False]])
    assert token_backup(*layout, carry=follows).tolist() == [[1, 1, 7, 0]]
    assert token_backup(*layout, carry=True).tolist() == [[4.5, 4.5, 7, 0]]


def test_targets_carry_no_gradient() -> None:
    values = torch.ones(1, 2, requires_grad=True)
    assert not token_backup(*decision_tokens(values, values[:, 0], values[:, 1], values[:, 0])).requires_grad


def test_targets_are_float32_under_autocast() -> None:
    half = torch.tensor([[0.3]], dtype=torch.bfloat16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        targets = token_backup(row(0.125), row(0.98), half)
    assert targets.dtype == torch.float32
    assert targets.item() == pytest.approx(0.125 + 0.98 * half.float().item(), abs=1e-7)


def test_decision_layout_by_hand() -> None:
    layout = decision_tokens(
        prefix_values_BA=row(0.9, 0.5, 0.6),
        bootstrap_value_B=torch.tensor([0.8]),
        returns_B=torch.tensor([0.25]),
        bootstrap_discount_B=torch.tensor([0.5]),
    )
    rewards, discounts, next_values = layout
    assert rewards.tolist() == [[0, 0, 0.25]]
    assert discounts.tolist() == [[1, 1, 0.5]]
    assert next_values.tolist() == [pytest.approx([0.5, 0.6, 0.8])]
    assert token_backup(*layout).tolist() == [pytest.approx([0.5, 0.6, 0.65])]


def test_reward_enters_the_target_of_the_last_token() -> None:
    """Earlier code regressed the last dimension on next-state logits only: the reward never entered the loss."""
    prefix, bootstrap = torch.rand(4, 3), torch.rand(4)
    discount = torch.full((4,), 0.98)
    without = token_backup(*decision_tokens(prefix, bootstrap, torch.zeros(4), discount))
    with_reward = token_backup(*decision_tokens(prefix, bootstrap, torch.ones(4), discount))
    assert torch.allclose(with_reward[:, -1] - without[:, -1], torch.ones(4))
    assert torch.equal(with_reward[:, :-1], without[:, :-1])


@pytest.mark.parametrize("actions", [1, 4])
def test_termination_cuts_the_bootstrap_and_truncation_does_not(actions: int) -> None:
    """Earlier code ignored done, and lost the last done of a window."""
    rewards, mask = torch.zeros(2, 1), torch.ones(2, 1, dtype=torch.bool)
    terminated = torch.tensor([[True], [False]])
    returns, discounts = n_step_returns(rewards, mask, 0.9, torch.ones(2, 1, dtype=torch.int64), terminated)
    layout = decision_tokens(torch.zeros(2, actions), torch.ones(2), returns[:, 0], discounts[:, 0])
    assert token_backup(*layout)[:, -1].tolist() == pytest.approx([0.0, 0.9])


def test_horizons_choose_the_largest_row_by_row() -> None:
    returns = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
    discounts = torch.tensor([[0.5, 0.25], [0.5, 0.25]])
    values = torch.tensor([[4.0, 2.0], [1.0, 1.0]])
    chosen = horizon_values(returns, discounts, values)
    assert [tensor.tolist() for tensor in chosen] == [[0.0, 0.0], [0.5, 0.5], [4.0, 1.0]]
    chosen = horizon_values(returns[:, 1:], discounts[:, 1:], values[:, 1:])
    assert [tensor.tolist() for tensor in chosen] == [[1.0, 0.0], [0.25, 0.25], [2.0, 1.0]]
