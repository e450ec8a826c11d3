"""What a trained planner is, beside its weights; and the networks it is made of.

Legend: S entries of a state, A entries of an action, G entries of a goal, X entries of one planned state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from qseq.configuration import from_dict, to_dict
from qseq.planner.config import (
    DenoiserConfig,
    DiffusionConfig,
    PlanDataConfig,
    PlanningConfig,
    TrajectoryConfig,
    ValueConfig,
)
from qseq.planner.denoisers import make_denoiser
from qseq.planner.normalisers import Normaliser
from qseq.planner.plan_returns import PlanReturn
from qseq.planner.small_networks import EndpointValue, InverseDynamics, Support


@dataclass(frozen=True, kw_only=True)
class PlannerSpec:
    """All that is needed to rebuild a planner's networks and to act with them.

    Attributes:
        state_size, action_size: S, A.
        action_space: JSON form.
        goal_low, goal_high: least and greatest goal that the data reached, one number an entry; empty without goals.
        return_scale: what one unit of the endpoint value is worth, in the data's rewards.
        counts: how much of the data was as long as a plan, for reports.
    """

    data: PlanDataConfig
    trajectory: TrajectoryConfig
    denoiser: DenoiserConfig
    diffusion: DiffusionConfig
    value: ValueConfig
    planning: PlanningConfig
    state_size: int
    action_size: int
    action_space: dict[str, Any]
    goal_low: tuple[float, ...] = ()
    goal_high: tuple[float, ...] = ()
    return_scale: float = 1.0
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def has_goals(self) -> bool:
        return bool(self.data.goal_field)

    @property
    def goal_size(self) -> int:
        """G."""
        return len(self.data.goal_dimensions) if self.has_goals else 0

    @property
    def fields(self) -> dict[str, tuple[int, ...]]:
        """What it reads of an observation: name -> shape."""
        read: dict[str, tuple[int, ...]] = {self.data.state_field: (self.state_size,)}
        return {**read, self.data.goal_field: (self.goal_size,)} if self.has_goals else read

    @property
    def plans_actions(self) -> bool:
        return self.trajectory.contents == "states-actions"

    @property
    def plan_size(self) -> int:
        """X: the action's entries, if they are planned, come before the state's."""
        return self.state_size + (self.action_size if self.plans_actions else 0)

    @property
    def has_critic(self) -> bool:
        return self.value.critic or not self.has_goals

    @property
    def has_support(self) -> bool:
        return self.value.support and self.has_goals

    def to_dict(self) -> dict[str, Any]:
        return to_dict(self)

    @classmethod
    def from_dict(cls, description: Mapping[str, Any]) -> PlannerSpec:
        """Raises ConfigError if it does not describe a planner."""
        return from_dict(
            cls, {key: value for key, value in description.items() if key not in ("kind", "qseq", "fields")}
        )


class PlannerNetwork(nn.Module):
    """Every network of a planner, with the normalisers of its states and actions.

    Attributes:
        denoiser: of plans.
        endpoint: value of where a plan ends.
        inverse: action from state to state; None where actions are planned.
        guide, critic: returns of noisy and of clean plans; None where they are not wanted.
        support: of the places where the data have been; None where it is not wanted.
    """

    def __init__(self, spec: PlannerSpec, states: Normaliser | None = None, actions: Normaliser | None = None) -> None:
        super().__init__()
        value = spec.value
        self.states = states if states is not None else Normaliser.identity(spec.state_size)
        self.actions = actions if actions is not None else Normaliser.identity(spec.action_size)
        self.denoiser = make_denoiser(spec.plan_size, spec.denoiser)
        self.endpoint = EndpointValue(
            spec.state_size, spec.goal_size, dim=value.dim, frequencies=value.frequencies if spec.has_goals else 0
        )
        self.inverse = None if spec.plans_actions else InverseDynamics(spec.state_size, spec.action_size, dim=value.dim)
        self.guide = PlanReturn(spec.plan_size, spec.goal_size, dim=value.plan_dim) if value.guide else None
        self.critic = PlanReturn(spec.plan_size, spec.goal_size, dim=value.plan_dim) if spec.has_critic else None
        self.support = (
            Support(spec.goal_size, dim=value.dim, frequencies=value.frequencies) if spec.has_support else None
        )
        self.goal_dimensions = list(spec.data.goal_dimensions)

    @property
    def device(self) -> torch.device:
        return self.states.offset_D.device

    def normalise_goals(self, goals: Tensor) -> Tensor:
        """Goals [..., G] in the data's units -> [..., G] as entries of normalised states."""
        return self.states.part(self.goal_dimensions).normalise(goals)
