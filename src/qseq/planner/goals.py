"""Whether and when plans reach a goal, and what that is worth.

Legend: C plans, H planned states, S entries of a state, G entries of a goal.
"""

from __future__ import annotations

import torch
from torch import Tensor


def reached(states: Tensor, goals: Tensor, dimensions: list[int], radius: float) -> Tensor:
    """Whether states [..., S] lie within `radius` of goals [..., G], all in the data's units: bool [...]."""
    distance: Tensor = (states[..., dimensions] - goals).norm(dim=-1)
    return distance <= radius


def first_arrival(states_CHS: Tensor, goals_CG: Tensor, dimensions: list[int], radius: float) -> Tensor:
    """Where along each plan, in planned states from its start, the goal is first reached; infinite if never: [C].

    The way between two planned states is taken as straight: with a stride it may pass the goal in between.
    """
    places_CHG = states_CHS[..., dimensions] - goals_CG.unsqueeze(-2)
    distance_CH = places_CHG.norm(dim=-1)
    if states_CHS.shape[1] == 1:
        return torch.where(distance_CH[:, 0] <= radius, 0.0, torch.inf)
    start_CKG, way_CKG = places_CHG[:, :-1], places_CHG.diff(dim=1)
    length_CK = way_CKG.square().sum(-1).clamp_min(1e-12)
    # The root of |start + u * way| = radius at which the way enters the circle, where it does.
    half_CK = (start_CKG * way_CKG).sum(-1) / length_CK
    outside_CK = (start_CKG.square().sum(-1) - radius**2) / length_CK
    root_CK = half_CK.square() - outside_CK
    entry_CK = -half_CK - root_CK.clamp_min(0.0).sqrt()
    enters_CK = (root_CK >= 0) & (entry_CK >= 0) & (entry_CK <= 1)
    numbers_K = torch.arange(way_CKG.shape[1], device=states_CHS.device)
    arrival_CK = torch.where(enters_CK, numbers_K + entry_CK, torch.inf)
    arrival_C = arrival_CK.amin(dim=1)
    return torch.where(distance_CH[:, 0] <= radius, torch.zeros_like(arrival_C), arrival_C)
