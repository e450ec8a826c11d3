"""The Bellman backup over tokens (Q-Transformer, Chebotar et al. 2023, section 4.1).

Legend: B batch, A action tokens of one decision, K bins of a token, M bootstrap horizons.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


@torch.no_grad()
def token_backup(
    rewards_BA: Tensor,
    discounts_BA: Tensor,
    next_values_BA: Tensor,
    lower_bounds_BA: Tensor | None = None,
    *,
    carry: bool | Tensor = False,
) -> Tensor:
    """Regression targets of a row of tokens: `max(reward + discount * next_value, lower_bound)`. No gradient flows.

    This is the only Bellman backup of the project: algorithms differ in the rewards, discounts and next values they
    pass.

    How much the two options below overestimate where outcomes are chance: each token whose target may be lifted wins
    where the one after it lost, so a prize of 1 won with probability p is valued `1 - (1 - p)^tokens`, counting the
    tokens from there to the prize; `carry` alone lifts only the tokens of the decision that won.

    Args:
        rewards_BA: reward that follows token j.
        discounts_BA: discount that follows token j; 0 where nothing comes after it.
        next_values_BA: value of what comes after token j: the maximum over the bins of the next token.
        lower_bounds_BA: returns really seen after token j (a column [B, 1] serves all tokens). Exact where the world is
            deterministic: the optimum is at least what was once achieved. Biased upward where it is stochastic: a lucky
            return is not the value of the action.
        carry: use when the tokens of a row are one observed continuation, each following from the one before (the
            dimensions of one decision). Then the target of a later token is itself a lower bound of the earlier one:
            `target[j] = max(target[j], reward[j] + discount[j] * target[j + 1])`, from the last to the first. A reward
            crosses a whole decision in one backup rather than in A. Exact in deterministic worlds; elsewhere biased
            upward like `lower_bounds_BA`, because it takes one sampled outcome for the expected one. A bool tensor
            [B, A] allows it token by token: False where token j + 1 does not follow token j, as where an episode ends
            inside a chunk of actions.

    Returns:
        Targets [B, A].
    """
    rewards_BA, discounts_BA = full_precision(rewards_BA), full_precision(discounts_BA)
    targets_BA = rewards_BA + discounts_BA * full_precision(next_values_BA)
    if lower_bounds_BA is not None:
        targets_BA = torch.maximum(targets_BA, full_precision(lower_bounds_BA))
    if carry is False:
        return targets_BA
    carried = [targets_BA[:, -1]]
    for token in range(targets_BA.shape[1] - 2, -1, -1):
        through_next_B = rewards_BA[:, token] + discounts_BA[:, token] * carried[-1]
        best_B = torch.maximum(targets_BA[:, token], through_next_B)
        carried.append(best_B if carry is True else torch.where(carry[:, token], best_B, targets_BA[:, token]))
    return torch.stack(carried[::-1], dim=1)


@torch.no_grad()
def decision_tokens(
    prefix_values_BA: Tensor, bootstrap_value_B: Tensor, returns_B: Tensor, bootstrap_discount_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Lay out one decision of A tokens for `token_backup`.

    Inside the decision a token has reward 0 and discount 1, and is followed by the best bin of the next token. The last
    token carries the reward: the n-step return, then the discounted value of the next decision.

    Args:
        prefix_values_BA: target network, maximum over the bins of token j given the true tokens before it. Entry 0 is
            the value of this state and is not used.
        bootstrap_value_B: target network, maximum over the bins of the first token of the decision n steps later.
        returns_B: discounted rewards of the n steps.
        bootstrap_discount_B: gamma^n; 0 where the episode terminated (not where it was merely truncated).

    Returns:
        rewards_BA, discounts_BA, next_values_BA.
    """
    prefix_values_BA = full_precision(prefix_values_BA)
    rewards_BA, discounts_BA = torch.zeros_like(prefix_values_BA), torch.ones_like(prefix_values_BA)
    rewards_BA[:, -1] = returns_B
    discounts_BA[:, -1] = bootstrap_discount_B
    bootstrap_value_B1 = full_precision(bootstrap_value_B).unsqueeze(1)
    return (
        rewards_BA,
        discounts_BA,
        torch.cat([prefix_values_BA[:, 1:], bootstrap_value_B1.to(prefix_values_BA)], dim=1),
    )


@torch.no_grad()
def horizon_values(
    returns_BM: Tensor, discounts_BM: Tensor, bootstrap_values_BM: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The best of several bootstrap horizons, row by row: `max over m of return[m] + discount[m] * value[m]`.

    Each horizon is a valid lower bound of the optimum in a deterministic world, so their maximum is the tightest; in
    stochastic worlds the maximum is biased upward, and one horizon should be used.

    Returns:
        returns_B, discounts_B, bootstrap_values_B of the chosen horizon, ready for `decision_tokens`.
    """
    returns_BM, discounts_BM = full_precision(returns_BM), full_precision(discounts_BM)
    bootstrap_values_BM = full_precision(bootstrap_values_BM)
    best_B1 = (returns_BM + discounts_BM * bootstrap_values_BM).argmax(dim=1, keepdim=True)
    chosen = [values_BM.gather(1, best_B1).squeeze(1) for values_BM in (returns_BM, discounts_BM, bootstrap_values_BM)]
    return chosen[0], chosen[1], chosen[2]
