"""What the values of a planner are fitted to. The library's `token_backup` is the only backup here.

Legend: B windows, H planned states, K = H - 1 moves between them, M of these moves, N steps of a window, S entries of a
state, G of a goal.
"""

from __future__ import annotations

import torch
from torch import Tensor

from qseq.planner.batches import PlanBatch
from qseq.planner.goals import first_arrival, reached
from qseq.planner.small_networks import EndpointValue
from qseq.planner.spec import PlannerNetwork, PlannerSpec
from qseq.values import n_step_returns, token_backup


@torch.no_grad()
def move_rewards(batch: PlanBatch, spec: PlannerSpec) -> tuple[Tensor, Tensor]:
    """Discounted reward of each move [B, K] and the discount after it, 0 where the episode terminated: [B, K]."""
    discount, ends_BK = spec.value.discount, batch.steps_BH[:, 1:]
    sums_BK, discounts_BK = n_step_returns(
        batch.rewards_BN,
        torch.ones_like(batch.rewards_BN, dtype=torch.bool),
        discount,
        ends_BK,
        batch.terminated_BH[:, 1:],
    )
    # From sums since the window's start to sums since each move's start.
    before_BK = batch.steps_BH[:, :-1].to(sums_BK.dtype)
    earlier_BK = torch.nn.functional.pad(sums_BK[:, :-1], (1, 0))
    scale_BK = discount**-before_BK
    return (sums_BK - earlier_BK) * scale_BK / spec.return_scale, discounts_BK * scale_BK


@torch.no_grad()
def endpoint_targets(batch: PlanBatch, network: PlannerNetwork, spec: PlannerSpec) -> Tensor:
    """Targets of the endpoint value of the states where some moves begin, by one move and the value after it: [B, M].

    For a goal: 1 where the state is at its goal, else what the move leads to; being there ends it, whatever the
    episode did then.
    """
    before, after = batch.moves()
    next_BMS = network.states.normalise(batch.states_BHS[after])
    if not spec.has_goals:
        rewards_BK, discounts_BK = move_rewards(batch, spec)
        return token_backup(rewards_BK[before], discounts_BK[before], network.endpoint(next_BMS))
    goals_BMG = batch.goals_BHG[before]
    here_BM = reached(batch.states_BHS[before], goals_BMG, network.goal_dimensions, spec.data.goal_radius)
    next_BM = network.endpoint(next_BMS, network.normalise_goals(goals_BMG))
    steps_BM = batch.steps_BH.diff(dim=1)[before].to(next_BM.dtype)
    discounts_BM = (spec.value.discount**steps_BM).masked_fill(here_BM, 0.0)
    return token_backup(here_BM.to(next_BM), discounts_BM, next_BM)


@torch.no_grad()
def monte_carlo_targets(batch: PlanBatch, network: PlannerNetwork, spec: PlannerSpec) -> Tensor:
    """The same, but what was seen in this very episode: nothing is passed from one episode to another. [B, M]."""
    before, _ = batch.moves()
    if not spec.has_goals:
        rewards_BK, discounts_BK = move_rewards(batch, spec)
        to_go = [batch.returns_B / spec.return_scale]
        for move in range(rewards_BK.shape[1] - 1):
            discount_B = discounts_BK[:, move]
            after_B = (to_go[-1] - rewards_BK[:, move]) / discount_B.clamp_min(1e-6)
            to_go.append(torch.where(discount_B > 0, after_B, 0.0))  # nothing comes after the end
        return torch.stack(to_go, dim=1)[before]
    goals_BMG, steps_BM = batch.goals_BHG[before], batch.goal_steps_BH[before]
    here_BM = reached(batch.states_BHS[before], goals_BMG, network.goal_dimensions, spec.data.goal_radius)
    seen_BM = torch.where(steps_BM >= 0, spec.value.discount ** steps_BM.clamp_min(0).float(), 0.0)
    return torch.where(here_BM, torch.ones_like(seen_BM), seen_BM)


def expectile_weights(errors: Tensor, expectile: float) -> Tensor:
    """Weights that make a loss's minimiser the expectile of its targets (Kostrikov et al. 2022, equation 4).

    Args:
        errors: target minus value, any shape.
    """
    return torch.where(errors > 0, expectile, 1.0 - expectile)


@torch.no_grad()
def plan_returns(
    batch: PlanBatch, network: PlannerNetwork, endpoint: EndpointValue, spec: PlannerSpec, goals_BG: Tensor
) -> Tensor:
    """What a window of the data is worth as a plan: its rewards and the value of its last state inside. [B].

    Args:
        goals_BG: in the data's units; empty without goals.
    """
    last_B = batch.inside_BH.sum(1) - 1
    rows_B = torch.arange(len(batch), device=last_B.device)
    ends_BS = network.states.normalise(batch.states_BHS[rows_B, last_B])
    if spec.has_goals:
        inside_BH1 = batch.inside_BH.unsqueeze(-1)
        ends_B1S = batch.states_BHS[rows_B, last_B].unsqueeze(1)
        states_BHS = torch.where(inside_BH1, batch.states_BHS, ends_B1S)
        values_B = endpoint(ends_BS, network.normalise_goals(goals_BG))
        steps_B = last_B * spec.trajectory.stride
        return goal_returns(states_BHS, goals_BG, values_B, steps_B.to(values_B), network, spec)
    if spec.value.target == "monte-carlo" or batch.states_BHS.shape[1] == 1:
        return batch.returns_B / spec.return_scale
    rewards_BK, discounts_BK = move_rewards(batch, spec)
    total_B: Tensor = endpoint(ends_BS)
    for move in range(rewards_BK.shape[1] - 1, -1, -1):
        total_B = rewards_BK[:, move] + discounts_BK[:, move] * total_B
    return total_B


def goal_returns(
    states_CHS: Tensor,
    goals_CG: Tensor,
    end_values_C: Tensor,
    end_steps_C: Tensor | float,
    network: PlannerNetwork,
    spec: PlannerSpec,
) -> Tensor:
    """Discounted time of the first arrival; where a plan [C, H, S] does not arrive, what its endpoint is worth: [C]."""
    arrival_C = first_arrival(states_CHS, goals_CG, network.goal_dimensions, spec.data.goal_radius)
    discount = spec.value.discount
    arrived_C = discount ** (arrival_C.clamp_max(1e6) * spec.trajectory.stride)
    return torch.where(arrival_C.isfinite(), arrived_C, discount**end_steps_C * end_values_C)
