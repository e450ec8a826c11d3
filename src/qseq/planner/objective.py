"""The losses of a planner: denoising, inverse dynamics, and the values that are asked for.

Legend: B windows, H planned states, M of the moves between them, X entries of one planned state, S of a state, A of an
action.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qseq.planner.batches import PlanBatch
from qseq.planner.diffusion import add_noise, make_scheduler
from qseq.planner.plan_returns import clean_level
from qseq.planner.spec import PlannerNetwork, PlannerSpec
from qseq.planner.targets import endpoint_targets, expectile_weights, monte_carlo_targets, plan_returns
from qseq.training import Losses

_LEAST_NOISE = 0.05
"""In units of normalised states: boundaries are learnt to about this."""


class PlannerObjective:
    """The sum of the losses of all parts; they share no weights, so each is trained as if it were alone.

    Args:
        spec: what the planner is.
    """

    def __init__(self, spec: PlannerSpec) -> None:
        self.spec = spec
        self.scheduler = make_scheduler(spec.diffusion)

    def loss(self, batch: PlanBatch, online: nn.Module, target: nn.Module | None) -> Losses:
        """See the class. `target` values what follows; without one the online network does."""
        network = cast(PlannerNetwork, online)
        average = network if target is None else cast(PlannerNetwork, target)
        states_BHS = network.states.normalise(batch.states_BHS)
        # Where nothing was done the middle of the scale is shown, and no loss asks for it.
        actions_BHA = network.actions.normalise(batch.actions_BHA) * batch.acted_BH.unsqueeze(-1)
        plans_BHX = torch.cat([actions_BHA, states_BHS], dim=-1) if self.spec.plans_actions else states_BHS
        terms = {"denoising": self._denoising(batch, network, plans_BHX)}
        if states_BHS.shape[1] > 1:
            if network.inverse is not None:
                terms["inverse_dynamics"] = self._inverse(batch, network, states_BHS, actions_BHA)
            terms["endpoint"] = self._endpoint(batch, network, average, states_BHS)
            if network.support is not None:
                terms["support"] = self._support(batch, network, states_BHS)
        terms |= self._returns(batch, network, average, plans_BHX)
        return Losses(total=torch.stack(list(terms.values())).sum(), terms=terms, parts=terms)

    def counts(self, batch: PlanBatch) -> dict[str, Tensor]:
        """Weights of the denoising errors, moves inside the episode, moves made; returns are means over windows."""
        counts = {"denoising": self._known(batch)[2].sum()}
        if batch.states_BHS.shape[1] > 1:
            before, after = batch.moves()
            counts["inverse_dynamics"] = counts["support"] = batch.inside_BH[after].sum()
            counts["endpoint"] = (batch.steps_BH.diff(dim=1) > 0)[before].sum()
        return counts

    def _denoising(self, batch: PlanBatch, network: PlannerNetwork, plans_BHX: Tensor) -> Tensor:
        """Squared error of the prediction (Ho et al. 2020, equation 14), of what is inside and not known."""
        diffusion = self.spec.diffusion
        noise_BHX = torch.randn_like(plans_BHX)
        levels_B = torch.randint(diffusion.noise_steps, (len(plans_BHX),), device=plans_BHX.device)
        noisy_BHX = add_noise(self.scheduler, plans_BHX, noise_BHX, levels_B)
        known_BH, known_BHX, weights_BHX = self._known(batch)
        noisy_BHX = torch.where(known_BHX, plans_BHX, noisy_BHX)
        predicted_BHX = network.denoiser(noisy_BHX, levels_B, known_BH, batch.inside_BH)
        truth_BHX = plans_BHX if diffusion.prediction == "sample" else noise_BHX
        errors_BHX = (predicted_BHX.float() - truth_BHX).square()
        mean: Tensor = (errors_BHX * weights_BHX).sum() / weights_BHX.sum().clamp_min(1.0)
        return mean

    def _known(self, batch: PlanBatch) -> tuple[Tensor, Tensor, Tensor]:
        """States that are known `[B, H]`, entries of plans that are known, and weights of the errors `[B, H, X]`."""
        offset = self.spec.action_size if self.spec.plans_actions else 0
        known_BH = torch.zeros_like(batch.inside_BH)
        known_BH[:, 0] = True
        known_BH.scatter_(1, batch.goal_places_B[:, None], True)
        known_BHX = known_BH.unsqueeze(-1).repeat(1, 1, offset + self.spec.state_size)
        known_BHX[..., :offset] = False  # actions are never known
        if self.spec.has_goals:  # of a later state only the goal's entries are, as in planning
            known_BHX[:, 1:] &= self._goal_entries(known_BHX)
        weights_BHX = batch.inside_BH.unsqueeze(-1).float() * ~known_BHX
        if self.spec.plans_actions:
            weights_BHX[..., :offset] *= batch.acted_BH.unsqueeze(-1)
            weights_BHX[:, 0, :offset] *= self.spec.diffusion.first_action_weight
        return known_BH, known_BHX, weights_BHX

    def _goal_entries(self, plans_BHX: Tensor) -> Tensor:
        entries_X = torch.zeros(plans_BHX.shape[-1], dtype=torch.bool, device=plans_BHX.device)
        offset = plans_BHX.shape[-1] - self.spec.state_size
        entries_X[[offset + dimension for dimension in self.spec.data.goal_dimensions]] = True
        return entries_X

    def _support(self, batch: PlanBatch, network: PlannerNetwork, states_BHS: Tensor) -> Tensor:
        """Cross-entropy of telling places from the same with noise, of scales from `_LEAST_NOISE` to 1 a place."""
        assert network.support is not None
        _, after = batch.moves()
        places_BMG = states_BHS[after][..., network.goal_dimensions]
        scale_BM1 = _LEAST_NOISE ** torch.rand_like(places_BMG[..., :1])
        elsewhere_BMG = places_BMG + scale_BM1 * torch.randn_like(places_BMG)
        there_BM, elsewhere_BM = network.support(torch.stack([places_BMG, elsewhere_BMG])).float()
        losses_BM = functional.softplus(-there_BM) + functional.softplus(elsewhere_BM)
        return _masked_mean(losses_BM, batch.inside_BH[after])

    def _inverse(self, batch: PlanBatch, network: PlannerNetwork, states_BHS: Tensor, actions_BHA: Tensor) -> Tensor:
        assert network.inverse is not None
        before, after = batch.moves()
        predicted_BMA = network.inverse(states_BHS[before], states_BHS[after])
        errors_BM = (predicted_BMA.float() - actions_BHA[before]).square().mean(-1)
        return _masked_mean(errors_BM, batch.inside_BH[after])

    def _endpoint(
        self, batch: PlanBatch, network: PlannerNetwork, average: PlannerNetwork, states_BHS: Tensor
    ) -> Tensor:
        before, _ = batch.moves()
        stitches = self.spec.value.target == "bootstrap"
        targets_BM = (endpoint_targets if stitches else monte_carlo_targets)(batch, average, self.spec)
        goals_BMG = network.normalise_goals(batch.goals_BHG[before]) if self.spec.has_goals else None
        logits_BM = network.endpoint.logits(states_BHS[before], goals_BMG)
        transform = network.endpoint.transform
        errors_BM = targets_BM - transform.values(logits_BM).detach()
        # Returns that were seen are averaged over; only the best of what can follow is a matter of choice.
        weights_BM = expectile_weights(errors_BM, self.spec.value.expectile if stitches else 0.5)
        # Where the episode ends within the move, the move is shorter, but the state it leads to is a true one.
        moved_BM = (batch.steps_BH.diff(dim=1) > 0)[before]
        return _masked_mean(transform.loss(logits_BM, targets_BM, weights_BM), moved_BM)

    def _returns(
        self, batch: PlanBatch, network: PlannerNetwork, average: PlannerNetwork, plans_BHX: Tensor
    ) -> dict[str, Tensor]:
        if network.guide is None and network.critic is None:
            return {}
        goals_BG = batch.goals_BHG[:, 0]
        truth_B = plan_returns(batch, average, average.endpoint, self.spec, goals_BG)
        normalised_BG = network.normalise_goals(goals_BG) if self.spec.has_goals else None
        terms: dict[str, Tensor] = {}
        if network.critic is not None:
            found_B = network.critic(plans_BHX, clean_level(plans_BHX), normalised_BG, batch.inside_BH)
            terms["critic"] = (found_B.float() - truth_B).square().mean()
        if network.guide is not None:
            levels_B = torch.randint(self.spec.diffusion.noise_steps, (len(plans_BHX),), device=plans_BHX.device)
            noisy_BHX = add_noise(self.scheduler, plans_BHX, torch.randn_like(plans_BHX), levels_B)
            offset = plans_BHX.shape[-1] - self.spec.state_size
            noisy_BHX[:, 0, offset:] = plans_BHX[:, 0, offset:]
            found_B = network.guide(noisy_BHX, levels_B, normalised_BG, batch.inside_BH)
            terms["guide"] = (found_B.float() - truth_B).square().mean()
        return terms


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp_min(1)
