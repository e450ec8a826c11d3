"""A pull of all weights towards their initial values, for any objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from qseq.training.objective import CountingObjective, Losses, Objective


class Regenerative:
    """`loss + weight * |weights - initial weights|^2` (regenerative regularisation; Kumar et al. 2023, section 4).

    Weights that the loss has stopped asking for drift back to where they could still learn.

    The initial weights are those at the first loss, when training starts: by then all processes have the same. They
    are the state of this objective, so the trainer keeps them in its checkpoints, and a resumed run goes on with them
    whatever the model was built with; a policy carries no second copy of its weights.

    Args:
        objective: what is learnt.
        weight: of the sum over all weights that are trained.
    """

    def __init__(self, objective: Objective, weight: float) -> None:
        self.objective = objective
        self.weight = weight
        self._initial: dict[str, Tensor] = {}
        self._loaded = False

    def loss(self, batch: Any, online: nn.Module, target: nn.Module | None) -> Losses:
        """The objective's, with the pull added."""
        losses = self.objective.loss(batch, online, target)
        trained = {name: parameter for name, parameter in online.named_parameters() if parameter.requires_grad}
        if not self._initial:
            self._initial = {name: parameter.detach().clone() for name, parameter in trained.items()}
        elif self._loaded:
            self._initial = {name: self._initial[name].to(parameter.device) for name, parameter in trained.items()}
        self._loaded = False
        distance = torch.stack(
            [(parameter - self._initial[n]).square().sum() for n, parameter in trained.items()]
        ).sum()
        terms = {**losses.terms, "distance_to_initial": distance.detach()}
        return replace(losses, total=losses.total + self.weight * distance, terms=terms)

    def counts(self, batch: Any) -> Mapping[str, Tensor]:
        """The objective's. The distance is the same for all batches of a step, whatever they count."""
        return self.objective.counts(batch) if isinstance(self.objective, CountingObjective) else {}

    def state_tensors(self) -> dict[str, Tensor]:
        """See `StatefulObjective`."""
        return self._initial

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """See `StatefulObjective`."""
        self._initial, self._loaded = dict(tensors), True
