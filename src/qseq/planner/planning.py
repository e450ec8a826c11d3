"""From states and goals to plans: draw candidates, judge the final ones, take the best.

Legend: E environments, C candidates of each, P = E * C plans, H planned states, X entries of one planned state, S of a
state, G of a goal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from qseq.errors import RequestError
from qseq.planner.config import PlanningConfig
from qseq.planner.diffusion import make_scheduler, set_steps
from qseq.planner.plan_returns import clean_level
from qseq.planner.sampling import Guidance, Known, sample_plans
from qseq.planner.spec import PlannerNetwork, PlannerSpec
from qseq.planner.targets import goal_returns

_SUPPORTED = -2.0
"""Log odds of a place that nothing is held against: a seventh as likely in the data as near them."""


@dataclass(frozen=True)
class Plans:
    """What was planned for each environment, in the data's units.

    Attributes:
        states_EHS: planned states, the present one first.
        actions_EHA: planned actions; None where only states are.
        values_EC: of all candidates, as they finally are.
        chosen_E: int64, which candidate was taken.
        normalised_EHX: the chosen plans as the denoiser sees them, to begin the next from.
        candidates_ECHS: states of all candidates.
        trace: states of all candidates [E, C, H, S] before and after each denoising step, where asked for.
    """

    states_EHS: Tensor
    actions_EHA: Tensor | None
    values_EC: Tensor
    chosen_E: Tensor
    normalised_EHX: Tensor
    candidates_ECHS: Tensor
    trace: tuple[Tensor, ...] = ()


class Planner:
    """Plans with a trained network.

    Args:
        network: in eval mode.
        spec: what it is.
        options: how plans are made.

    Raises:
        RequestError: options that the network was not trained for.
    """

    def __init__(self, network: PlannerNetwork, spec: PlannerSpec, options: PlanningConfig) -> None:
        if options.guidance_scale and network.guide is None:
            raise RequestError(
                f"guidance_scale: found {options.guidance_scale}, expected 0: this planner was trained without "
                "value.guide=true"
            )
        if options.select and options.selection == "critic" and network.critic is None:
            raise RequestError("selection: found critic, expected endpoint: trained without value.critic=true")
        if options.reach_goal and not spec.has_goals:
            raise RequestError("reach_goal: found true, expected false: this planner was trained without goals")
        self.network = network
        self.spec = spec
        self.options = options
        self.scheduler = make_scheduler(spec.diffusion, options.sampler)
        set_steps(self.scheduler, options.steps)

    def plan(
        self,
        states_ES: Tensor,
        goals_EG: Tensor | None = None,
        *,
        previous_EHX: Tensor | None = None,
        shift: Sequence[int] | int = 0,
        horizon: int | None = None,
        generator: torch.Generator | None = None,
        keep_trace: bool = False,
    ) -> Plans:
        """Plan for each environment.

        Args:
            states_ES: where they are, in the data's units.
            goals_EG: where they are to go; None without goals.
            previous_EHX: their last plans (`Plans.normalised_EHX`), used if the option `warm_start` is above 0.
            shift: planned states that have passed since, of each or of all.
            horizon: planned states; those of training by default.
            generator: of all noise.
            keep_trace: keep what each denoising step gave.

        Raises:
            RequestError: a horizon that the network cannot take, or states of another size.
        """
        horizon = self.spec.trajectory.horizon if horizon is None else horizon
        self.network.denoiser.require_horizon(horizon)
        if states_ES.ndim != 2 or states_ES.shape[1] != self.spec.state_size:
            raise RequestError(f"states: found shape {list(states_ES.shape)}, expected [E, {self.spec.state_size}]")
        with torch.no_grad():
            return self._plan(states_ES, goals_EG, previous_EHX, shift, horizon, generator, keep_trace)

    def _plan(
        self,
        states_ES: Tensor,
        goals_EG: Tensor | None,
        previous_EHX: Tensor | None,
        shift: Sequence[int] | int,
        horizon: int,
        generator: torch.Generator | None,
        keep_trace: bool,
    ) -> Plans:
        network, options = self.network, self.options
        environments, candidates = len(states_ES), options.candidates
        states_PS = states_ES.repeat_interleave(candidates, dim=0)
        goals_PG = None if goals_EG is None else goals_EG.repeat_interleave(candidates, dim=0)
        size, offset = self.spec.plan_size, self.spec.plan_size - self.spec.state_size
        known = Known.nothing((len(states_PS), horizon, size), network.device)
        known = known.with_entries(0, slice(offset, size), network.states.normalise(states_PS))
        if options.reach_goal and goals_PG is not None:
            known = self._reach(known, states_PS, goals_PG, offset)
        start_PHX = None
        if options.warm_start and previous_EHX is not None:
            start_PHX = _shifted(previous_EHX, shift, horizon).repeat_interleave(candidates, dim=0)
        trace: list[Tensor] | None = [] if keep_trace else None
        plans_PHX = sample_plans(
            network.denoiser,
            self.scheduler,
            known,
            generator=generator,
            guidance=self._guidance(goals_PG),
            start_CHX=start_PHX,
            start_share=options.warm_start,
            temperature=options.temperature,
            trace=trace,
        )
        plans_ECHX = _by_environment(plans_PHX, environments)
        values_EC = _by_environment(self.values(plans_PHX, goals_PG), environments)
        chosen_E = values_EC.argmax(1) if options.select else torch.zeros_like(values_EC[:, 0], dtype=torch.int64)
        best_EHX = plans_ECHX[torch.arange(environments, device=plans_ECHX.device), chosen_E]
        return Plans(
            states_EHS=network.states.denormalise(best_EHX[..., offset:]),
            actions_EHA=network.actions.denormalise(best_EHX[..., :offset]) if offset else None,
            values_EC=values_EC,
            chosen_E=chosen_E,
            normalised_EHX=best_EHX,
            candidates_ECHS=network.states.denormalise(plans_ECHX[..., offset:]),
            trace=tuple(
                _by_environment(network.states.denormalise(x[..., offset:]), environments) for x in trace or ()
            ),
        )

    def values(self, plans_PHX: Tensor, goals_PG: Tensor | None) -> Tensor:
        """What plans are worth as they are, clean, less what leaving the data's places costs: [P]."""
        returns_P = self._returns(plans_PHX, goals_PG)
        if self.network.support is None or not self.options.support_cost or plans_PHX.shape[1] == 1:
            return returns_P
        places_PHG = self._states(plans_PHX)[:, 1:, self.network.goal_dimensions]
        lack_P = (_SUPPORTED - self.network.support(places_PHG).float().amin(1)).clamp_min(0.0)
        share_P = self.spec.value.discount ** (self.options.support_cost * lack_P)
        # A critic may say less than 0, which must become even less.
        costly_P: Tensor = returns_P - (1.0 - share_P) * returns_P.abs()
        return costly_P

    def _returns(self, plans_PHX: Tensor, goals_PG: Tensor | None) -> Tensor:
        network, spec = self.network, self.spec
        normalised_PG = None if goals_PG is None else network.normalise_goals(goals_PG)
        if network.critic is not None and (self.options.selection == "critic" or not spec.has_goals):
            return network.critic(plans_PHX, clean_level(plans_PHX), normalised_PG).float()  # type: ignore[no-any-return]
        assert goals_PG is not None
        states_PHS = self._states(plans_PHX)
        end_values_P = network.endpoint(states_PHS[:, -1], normalised_PG)
        steps = float((plans_PHX.shape[1] - 1) * spec.trajectory.stride)
        return goal_returns(network.states.denormalise(states_PHS), goals_PG, end_values_P, steps, network, spec)

    def _states(self, plans_PHX: Tensor) -> Tensor:
        return plans_PHX[..., self.spec.plan_size - self.spec.state_size :]

    def steps_to_goal(self, states_PS: Tensor, goals_PG: Tensor) -> Tensor:
        """Environment steps to the goal, as the endpoint value has them: [P]."""
        network = self.network
        values_P = network.endpoint(network.states.normalise(states_PS), network.normalise_goals(goals_PG))
        steps_P: Tensor = values_P.clamp(1e-6, 1.0).log() / math.log(self.spec.value.discount)
        return steps_P

    def _reach(self, known: Known, states_PS: Tensor, goals_PG: Tensor, offset: int) -> Known:
        """The goal at the planned state that it can be reached by, where that lies within the plan."""
        entries = [offset + dimension for dimension in self.spec.data.goal_dimensions]
        arrival_P = (self.steps_to_goal(states_PS, goals_PG) / self.spec.trajectory.stride).ceil().long() + 1
        horizon = known.mask_CHX.shape[1]
        rows_P = (arrival_P < horizon).nonzero().squeeze(-1)
        values_PHX, mask_PHX = known.values_CHX.clone(), known.mask_CHX.clone()
        goals_PG = self.network.normalise_goals(goals_PG)
        for column, entry in enumerate(entries):
            values_PHX[rows_P, arrival_P[rows_P], entry] = goals_PG[rows_P, column]
            mask_PHX[rows_P, arrival_P[rows_P], entry] = True
        return Known(values_PHX, mask_PHX)

    def _guidance(self, goals_PG: Tensor | None) -> Guidance | None:
        options, guide = self.options, self.network.guide
        if not options.guidance_scale or guide is None:
            return None
        normalised_PG = None if goals_PG is None else self.network.normalise_goals(goals_PG)
        return Guidance(
            value=lambda plans_PHX, level_1: guide(plans_PHX, level_1, normalised_PG),
            scale=options.guidance_scale,
            pushes=options.guidance_steps,
            unguided=options.unguided_steps,
        )


def _by_environment(rows: Tensor, environments: int) -> Tensor:
    """[E * C, ...] -> [E, C, ...]."""
    return rows.view(environments, -1, *rows.shape[1:])


def _shifted(plans_EHX: Tensor, shift: Sequence[int] | int, horizon: int) -> Tensor:
    """Plans moved on by some planned states; what is missing at the end repeats the last."""
    shift_E = torch.as_tensor(shift, device=plans_EHX.device).expand(len(plans_EHX))
    index_EH = shift_E.unsqueeze(1) + torch.arange(horizon, device=plans_EHX.device)
    index_EH = index_EH.clamp_max(plans_EHX.shape[1] - 1)
    return plans_EHX.gather(1, index_EH.unsqueeze(-1).expand(-1, -1, plans_EHX.shape[-1]))
