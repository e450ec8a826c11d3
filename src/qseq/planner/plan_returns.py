"""Networks that judge whole plans: noisy ones, for guidance, and clean ones, for selection.

Legend: B plans, H planned states, X entries of one planned state, G entries of a goal, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from qseq.planner.transformer import PlanTransformer


class PlanReturn(nn.Module):
    """The return of a plan, given its level of noise; a clean plan has level 0 and is shown without noise.

    Args:
        size: X.
        goal_size: G; 0 where there is none.
        dim: width of its transformer.
    """

    def __init__(self, size: int, goal_size: int, *, dim: int) -> None:
        super().__init__()
        self.body = PlanTransformer(size, dim=dim, depth=2, heads=4)
        self.goal = nn.Linear(goal_size, dim) if goal_size else None
        self.head = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, 1))

    def forward(
        self,
        plans_BHX: Tensor,
        levels_B: Tensor,
        goals_BG: Tensor | None = None,
        inside_BH: Tensor | None = None,
    ) -> Tensor:
        """Normalised plans -> returns [B]."""
        condition_BD = None if self.goal is None or goals_BG is None else self.goal(goals_BG)
        features_BHD = self.body(plans_BHX, levels_B, inside_BH=inside_BH, condition_BD=condition_BD)
        features_BHD = functional.layer_norm(features_BHD, features_BHD.shape[-1:])
        if inside_BH is None:
            pooled_BD = features_BHD.mean(1)
        else:
            weights_BH1 = inside_BH.unsqueeze(-1).to(features_BHD)
            pooled_BD = (features_BHD * weights_BH1).sum(1) / weights_BH1.sum(1)
        if condition_BD is not None:
            pooled_BD = pooled_BD + condition_BD
        out: Tensor = self.head(pooled_BD).squeeze(-1)
        return out


def clean_level(plans_BHX: Tensor) -> Tensor:
    """The level of plans without noise, int64 [1]."""
    return torch.zeros(1, dtype=torch.int64, device=plans_BHX.device)
