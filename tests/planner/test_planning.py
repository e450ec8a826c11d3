"""Plans: what is given is kept, the best of the final ones is taken, and the same noise gives the same plan.

Legend: E environments, C candidates, H planned states.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from qseq.errors import RequestError
from qseq.planner.config import DiffusionConfig
from qseq.planner.diffusion import make_scheduler, set_steps
from qseq.planner.planning import Planner, _shifted
from qseq.planner.sampling import Known, sample_plans
from tests.planner.worlds import JOINT, STATES, policy_of, walks

STATE, GOAL = torch.tensor([[0.1, 0.2, 0.0, 0.0], [1.0, -1.0, 0.0, 0.1]]), torch.tensor([[0.5, 0.5], [0.0, 0.0]])
UNET = ("denoiser.kind=unet", "denoiser.dim=24", "denoiser.depth=2")


def planner_of(tmp_path: Path, *overrides: str, **options) -> Planner:
    policy = policy_of(walks(tmp_path / "data"), *overrides)
    return Planner(policy.network, policy.spec, replace(policy.spec.planning, **options))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("overrides", [STATES, JOINT, (*STATES, *UNET), (*JOINT, *UNET)])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_a_plan_begins_where_the_environment_is(tmp_path: Path, overrides, sampler: str) -> None:
    planner = planner_of(tmp_path, *overrides, sampler=sampler)
    plans = planner.plan(STATE, GOAL if planner.spec.has_goals else None, generator=noise())
    torch.testing.assert_close(plans.candidates_ECHS[:, :, 0], STATE.unsqueeze(1).expand(-1, 4, -1))
    assert plans.states_EHS.isfinite().all()
    assert (plans.actions_EHA is None) == planner.spec.has_goals


def test_the_same_noise_gives_the_same_plan(tmp_path: Path) -> None:
    """The known pipeline drew from torch's global state."""
    planner = planner_of(tmp_path, *STATES)
    torch.manual_seed(1)
    first = planner.plan(STATE, GOAL, generator=noise())
    torch.manual_seed(2)
    again = planner.plan(STATE, GOAL, generator=noise())
    assert torch.equal(first.states_EHS, again.states_EHS)
    assert not torch.equal(first.states_EHS, planner.plan(STATE, GOAL, generator=noise(5)).states_EHS)


@pytest.mark.parametrize("options", [{}, {"guidance_scale": 5.0}, {"selection": "critic"}, {"sampler": "ddpm"}])
@pytest.mark.parametrize("seed", range(5))
def test_no_candidate_is_worth_more_than_the_chosen_one(tmp_path: Path, options, seed: int) -> None:
    """Ranked by the final plans: the known pipeline ranked by values from before the last updates."""
    planner = planner_of(tmp_path, *STATES, "value.guide=true", "value.critic=true", **options)
    plans = planner.plan(STATE, GOAL, generator=noise(seed))
    normalised = planner.network.states.normalise(plans.candidates_ECHS).flatten(0, 1)
    with torch.no_grad():
        again = planner.values(normalised, GOAL.repeat_interleave(4, dim=0)).unflatten(0, (2, 4))
    torch.testing.assert_close(again, plans.values_EC, rtol=1e-3, atol=1e-4)
    chosen = again.gather(1, plans.chosen_E.unsqueeze(1)).squeeze(1)
    assert (chosen >= again.amax(1) - 1e-3).all()
    torch.testing.assert_close(plans.states_EHS, plans.candidates_ECHS[torch.arange(2), plans.chosen_E])


class Strip(torch.nn.Module):
    """Log odds of places: 0 in a strip around x = 0, -5 elsewhere."""

    def forward(self, places: torch.Tensor) -> torch.Tensor:
        return torch.where(places[..., 0].abs() < 0.5, 0.0, -5.0)


@pytest.mark.parametrize("worth", [0.8, -0.8])
def test_a_plan_counts_as_longer_by_what_its_least_likely_place_lacks(tmp_path: Path, monkeypatch, worth) -> None:
    planner = planner_of(tmp_path, *STATES, support_cost=10.0)
    planner.network.support = Strip()  # type: ignore[assignment]
    monkeypatch.setattr(planner, "_returns", lambda plans, goals: torch.full((len(plans),), worth))
    plans = torch.zeros(4, 4, 4)
    plans[1, 0, 0] = 9.0  # the present place is where it is
    plans[2, 2, 0] = 9.0
    plans[3, 1:, 0] = 9.0  # the least likely place counts, not how many there are
    share = planner.spec.value.discount ** (10.0 * 3.0)  # what lies below log odds of -2
    less = worth * share if worth > 0 else worth * (2 - share)
    assert planner.values(plans, None).tolist() == pytest.approx([worth, worth, less, less])
    planner.options = replace(planner.options, support_cost=0.0)
    assert planner.values(plans, None).tolist() == pytest.approx([worth] * 4)


def test_the_best_plan_through_a_place_where_nobody_was_is_not_taken(tmp_path: Path, monkeypatch) -> None:
    planner = planner_of(tmp_path, *STATES, candidates=16, support_cost=0.0)
    best = planner.plan(STATE[:1], GOAL[:1], generator=noise())
    place = planner.network.states.normalise(best.states_EHS)[0, 2, :2]
    monkeypatch.setattr(
        planner.network.support, "forward", lambda places: torch.where((places - place).norm(dim=-1) < 1e-4, -5.0, 0.0)
    )
    planner.options = replace(planner.options, support_cost=1e3)
    other = planner.plan(STATE[:1], GOAL[:1], generator=noise())
    torch.testing.assert_close(other.candidates_ECHS, best.candidates_ECHS)
    assert other.chosen_E.item() == best.values_EC.topk(2).indices[0, 1].item()


def test_without_selection_the_first_candidate_is_taken(tmp_path: Path) -> None:
    plans = planner_of(tmp_path, *STATES, select=False).plan(STATE, GOAL, generator=noise())
    assert plans.chosen_E.tolist() == [0, 0]


def test_guidance_raises_the_value_of_plans(tmp_path: Path) -> None:
    options = {"steps": 10, "select": False, "unguided_steps": 0}
    overrides = (*STATES, "value.guide=true", "value.critic=true", "planning.selection=critic", "value.support=false")
    plain = planner_of(tmp_path, *overrides, **options)
    plain.network.critic = plain.network.guide  # judged by what it is guided by
    guided = Planner(plain.network, plain.spec, replace(plain.options, guidance_scale=20.0))
    low, high = (planner.plan(STATE, GOAL, generator=noise()).values_EC for planner in (plain, guided))
    assert high.mean() > low.mean()


@pytest.mark.parametrize("grad", [True, False])
def test_no_gradient_leaves_the_planner(tmp_path: Path, grad: bool) -> None:
    planner = planner_of(tmp_path, *STATES, "value.guide=true", guidance_scale=1.0)
    planner.network.requires_grad_(True)
    with torch.set_grad_enabled(grad):
        plans = planner.plan(STATE, GOAL, generator=noise())
    assert not any(value.requires_grad for value in vars(plans).values() if isinstance(value, torch.Tensor))
    assert all(parameter.grad is None for parameter in planner.network.parameters())


@pytest.mark.parametrize("horizon", [1, 3, 32, 128])
@pytest.mark.parametrize("candidates", [1, 5])
def test_any_horizon_and_number_of_candidates(tmp_path: Path, horizon: int, candidates: int) -> None:
    """The known pipeline crashed for a batch of one and for a horizon of 128."""
    planner = planner_of(tmp_path, *STATES, candidates=candidates)
    plans = planner.plan(STATE, GOAL, horizon=horizon, generator=noise())
    assert plans.candidates_ECHS.shape == (2, candidates, horizon, 4)


def test_a_horizon_that_the_network_cannot_take_is_named(tmp_path: Path) -> None:
    planner = planner_of(tmp_path, *STATES, *UNET)
    with pytest.raises(RequestError, match=r"horizon: found 7, expected a multiple of 2 .* the nearest is (6|8)"):
        planner.plan(STATE, GOAL, horizon=7)


@pytest.mark.parametrize("steps", [1, 2, 7, 10])
def test_any_number_of_steps(tmp_path: Path, steps: int) -> None:
    plans = planner_of(tmp_path, *STATES, steps=steps).plan(STATE, GOAL, generator=noise(), keep_trace=True)
    assert len(plans.trace) == steps + 1
    with pytest.raises(RequestError, match="steps: found 11, expected 1 to 10"):
        planner_of(tmp_path, *STATES, steps=11)


def test_the_goal_is_set_where_it_can_be_reached(tmp_path: Path) -> None:
    """Inpainting of start and goal; the nearer the goal, the fewer planned states lie before it."""
    planner = planner_of(tmp_path, *STATES, reach_goal=True)
    for arrival in (2, 1):
        planner.steps_to_goal = lambda states, goals, n=arrival: torch.full((len(states),), 2.0 * n - 2.5)
        plans = planner.plan(STATE, GOAL, generator=noise())
        expected = GOAL.unsqueeze(1).expand(-1, 4, -1)
        torch.testing.assert_close(plans.candidates_ECHS[:, :, arrival, :2], expected)
    planner.steps_to_goal = lambda states, goals: torch.full((len(states),), 100.0)
    plans = planner.plan(STATE, GOAL, generator=noise())
    assert (plans.candidates_ECHS[:, :, 1:, :2] - GOAL[:, None, None]).norm(dim=-1).min() > 1e-4


def test_a_warm_start_does_only_the_last_steps() -> None:
    """Begun from a plan with a fifth of the steps to do: little noise, and the plan is still seen through it."""
    scheduler = make_scheduler(DiffusionConfig(noise_steps=100), "ddim")
    set_steps(scheduler, 10)
    seen: list[torch.Tensor] = []

    def denoise(plans_CHX, level_1, known_CH):
        seen.append(plans_CHX)
        return plans_CHX

    last_CHX, known = torch.full((1000, 1, 1), 5.0), Known.nothing((1000, 1, 1))
    sample_plans(denoise, scheduler, known, generator=noise(), start_CHX=last_CHX, start_share=0.2)
    assert len(seen) == 2
    kept = float(scheduler.alphas_cumprod[scheduler.timesteps[8]])
    assert seen[0].mean().item() == pytest.approx(5.0 * kept**0.5, abs=0.1)
    assert seen[0].std().item() == pytest.approx((1 - kept) ** 0.5, rel=0.1)


def test_a_planner_begins_from_the_last_plan(tmp_path: Path) -> None:
    planner = planner_of(tmp_path, *STATES, steps=10, warm_start=0.5)
    last = planner.plan(STATE, GOAL, generator=noise())
    cold = planner.plan(STATE, GOAL, generator=noise(1), keep_trace=True)
    warm = planner.plan(STATE, GOAL, previous_EHX=last.normalised_EHX, generator=noise(1), keep_trace=True)
    assert len(cold.trace) == 11
    assert len(warm.trace) == 6


def test_a_last_plan_is_moved_on() -> None:
    plans_EHX = torch.arange(8.0).view(2, 4, 1)
    assert _shifted(plans_EHX, [1, 3], 4).squeeze(-1).tolist() == [[1, 2, 3, 3], [7, 7, 7, 7]]
    assert _shifted(plans_EHX, 0, 2).squeeze(-1).tolist() == [[0, 1], [4, 5]]


def test_options_it_was_not_trained_for_are_refused(tmp_path: Path) -> None:
    for options, message in (
        ({"guidance_scale": 1.0}, "value.guide=true"),
        ({"selection": "critic"}, "value.critic=true"),
    ):
        with pytest.raises(RequestError, match=message):
            planner_of(tmp_path, *STATES, **options)
    with pytest.raises(RequestError, match="trained without goals"):
        planner_of(tmp_path, *JOINT, reach_goal=True)


def test_states_of_another_size(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"found shape \[1, 3\], expected \[E, 4\]"):
        planner_of(tmp_path, *STATES).plan(torch.zeros(1, 3), torch.zeros(1, 2))
