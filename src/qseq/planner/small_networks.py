"""Small networks of single states: what the end of a plan is worth, where the data went, and which action leads on.

Legend: B rows, S entries of a state, G entries of a goal, A entries of an action.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qseq.planner.features import SineFeatures
from qseq.values import BoundedValue, UnboundedValue, ValueTransform

_FAR = -4.0


def _layers(size: int, dim: int, outputs: int) -> nn.Sequential:
    parts: list[nn.Module] = []
    for inputs in (size, dim, dim):
        parts += [nn.Linear(inputs, dim), nn.LayerNorm(dim), nn.GELU()]
    return nn.Sequential(*parts, nn.Linear(dim, outputs))


class EndpointValue(nn.Module):
    """The value of a state, or of a state for a goal: what is still to come where a plan ends.

    For a goal it is `discount ** steps until it is reached`, in [0, 1]; else a discounted return, in units of
    `PlannerNetwork.return_scale`.
    """

    def __init__(self, state_size: int, goal_size: int, *, dim: int, frequencies: int) -> None:
        super().__init__()
        self.features = SineFeatures(state_size + goal_size, frequencies)
        self.layers = _layers(self.features.size, dim, 1)
        self.transform: ValueTransform = BoundedValue(loss_kind="bce") if goal_size else UnboundedValue()
        if goal_size:
            # Far from every goal, until something is known: values too high at first take long to come down.
            last = self.layers[-1]
            assert isinstance(last, nn.Linear)
            nn.init.constant_(last.bias, _FAR)

    def logits(self, states_BS: Tensor, goals_BG: Tensor | None = None) -> Tensor:
        """Normalised states [..., S] and goals [..., G] -> logits [...]."""
        inputs = (
            states_BS if goals_BG is None else torch.cat([states_BS, goals_BG.expand(*states_BS.shape[:-1], -1)], -1)
        )
        out: Tensor = self.layers(self.features(inputs)).squeeze(-1)
        return out

    def forward(self, states_BS: Tensor, goals_BG: Tensor | None = None) -> Tensor:
        """Values [...]."""
        return self.transform.values(self.logits(states_BS, goals_BG))


class Support(nn.Module):
    """How much likelier a place is in the data than near them: log odds, 0 where nothing tells them apart.

    Places are the entries of a state that goals name. Noise-contrastive estimation (Gutmann and Hyvarinen 2010, section
    2.2) against the data with Gaussian noise of many scales added: where no episode has ever been, though others were
    next to it, such as the inside of a wall, odds are near zero. Of whole states the odds would ask more than that a
    plan can be driven: that it looks like the data in every entry.
    """

    def __init__(self, goal_size: int, *, dim: int, frequencies: int) -> None:
        super().__init__()
        self.features = SineFeatures(goal_size, frequencies)
        self.layers = _layers(self.features.size, dim, 1)

    def forward(self, places_BG: Tensor) -> Tensor:
        """Normalised places [..., G] -> log odds [...]."""
        out: Tensor = self.layers(self.features(places_BG)).squeeze(-1)
        return out


class InverseDynamics(nn.Module):
    """The action that was taken in a state, given the state some steps later (Ajay et al. 2023, equation 5)."""

    def __init__(self, state_size: int, action_size: int, *, dim: int) -> None:
        super().__init__()
        self.layers = _layers(2 * state_size, dim, action_size)

    def forward(self, states_BS: Tensor, later_BS: Tensor) -> Tensor:
        """Normalised states, now and later -> normalised actions [..., A]."""
        out: Tensor = self.layers(torch.cat([states_BS, later_BS - states_BS], dim=-1))
        return out
