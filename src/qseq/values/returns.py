"""Discounted sums of rewards.

Legend: B batch, N steps of a window, M bootstrap horizons, T steps of an episode.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


@torch.no_grad()
def n_step_returns(
    rewards_BN: Tensor,
    step_mask_BN: Tensor,
    discount: float,
    bootstrap_steps_BM: Tensor,
    bootstrap_terminated_BM: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns and bootstrap discounts of M horizons (Sutton and Barto 2018, equation 7.1).

    Args:
        rewards_BN: rewards of the window's steps.
        step_mask_BN: True inside the episode; rewards elsewhere are ignored.
        discount: gamma, per step.
        bootstrap_steps_BM: int64, the number of steps really taken, `min(m, steps left)`, at most N.
        bootstrap_terminated_BM: True where the state reached is terminal. A truncated episode is not: its last
            observation has a value.

    Returns:
        returns_BM: `sum of gamma^i * reward[i]` over the steps taken.
        bootstrap_discounts_BM: `gamma^steps`, 0 where terminated.
    """
    rewards_BN = full_precision(rewards_BN) * step_mask_BN
    powers_N = discount ** torch.arange(rewards_BN.shape[1], device=rewards_BN.device, dtype=rewards_BN.dtype)
    sums_BN = (rewards_BN * powers_N).cumsum(dim=1)
    # Column s holds the return of s steps; a horizon of no steps has the return 0.
    returns_BS = torch.nn.functional.pad(sums_BN, (1, 0))
    returns_BM = returns_BS.gather(1, bootstrap_steps_BM)
    discounts_BM = discount ** bootstrap_steps_BM.to(rewards_BN.dtype)
    return returns_BM, discounts_BM.masked_fill(bootstrap_terminated_BM, 0.0)


@torch.no_grad()
def returns_to_go(rewards: Tensor, discount: float, final_value: Tensor | float = 0.0) -> Tensor:
    """Discounted sum of the rewards from each step on, along the last dimension.

    Args:
        rewards: [..., T].
        discount: gamma, per step.
        final_value: value after the last reward, [...] or a number; 0 where the episode terminated.

    Returns:
        [..., T].
    """
    rewards = full_precision(rewards)
    following = torch.zeros_like(rewards[..., 0]) + final_value
    returns = torch.empty_like(rewards)
    for step in range(rewards.shape[-1] - 1, -1, -1):
        following = rewards[..., step] + discount * following
        returns[..., step] = following
    return returns
