"""What values are fitted to, worked out by hand; and that the backup stitches where returns that were seen cannot.

Legend: B windows, H planned states.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qseq.episodes import Episode, EpisodeView
from qseq.planner.algorithm import fit_normalisers
from qseq.planner.batches import PlanBatch, PlanBatches
from qseq.planner.goals import first_arrival, reached
from qseq.planner.objective import PlannerObjective
from qseq.planner.spec import PlannerNetwork
from qseq.planner.targets import endpoint_targets, expectile_weights, monte_carlo_targets, plan_returns
from tests.planner.worlds import JOINT, STATES, policy_of, walks, write_view


def in_order(batch: PlanBatch) -> PlanBatch:
    """The same windows, of which all three moves are looked at one after the other."""
    return replace(batch, moves_BM=torch.arange(3).expand(len(batch), -1))


def test_first_arrival_between_two_planned_states() -> None:
    plan_HS = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [2.0, 1.0]])
    plans = plan_HS.expand(5, -1, -1)
    goals = torch.tensor([[0.05, 0.0], [1.0, 0.0], [1.5, 0.1], [2.0, 1.0], [5.0, 5.0]])
    found = first_arrival(plans, goals, [0, 1], 0.1)
    assert found.tolist() == pytest.approx([0.0, 0.9, 1.5, 2.9, float("inf")], abs=1e-3)


def test_arrival_passes_the_goal_between_two_states() -> None:
    """With a stride the states themselves may all lie outside of the radius."""
    plans = torch.tensor([[[0.0, 0.0], [2.0, 0.0]]])
    assert not reached(plans, torch.tensor([[[1.0, 0.0]]]), [0, 1], 0.4).any()
    assert first_arrival(plans, torch.tensor([[1.0, 0.0]]), [0, 1], 0.4).item() == pytest.approx(0.3)


def test_one_state_has_arrived_or_not() -> None:
    plans = torch.tensor([[[0.0, 0.0]], [[1.0, 0.0]]])
    assert first_arrival(plans, torch.zeros(2, 2), [0, 1], 0.1).tolist() == [0.0, float("inf")]


def test_goal_targets(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    policy = policy_of(view, *STATES, "value.discount=0.9")
    network, spec = policy.network, policy.spec
    batch = in_order(PlanBatches(view, spec, batch_size=32, seed=0).batch_at(0))
    found = endpoint_targets(batch, network, spec)
    seen = monte_carlo_targets(batch, network, spec)
    for row in range(32):
        for move in range(3):
            state, following = batch.states_BHS[row, move], batch.states_BHS[row, move + 1]
            goal = batch.goals_BHG[row, move]
            steps = int(batch.steps_BH[row, move + 1] - batch.steps_BH[row, move])
            here = (state[:2] - goal).norm() <= 0.3
            after = network.endpoint(network.states.normalise(following), network.normalise_goals(goal)).item()
            assert found[row, move].item() == pytest.approx(1.0 if here else 0.9**steps * after, abs=1e-5)
            away = int(batch.goal_steps_BH[row, move])
            assert seen[row, move].item() == pytest.approx(1.0 if here else 0.9**away if away >= 0 else 0.0, abs=1e-5)


@pytest.mark.parametrize("terminated", [False, True])
def test_return_targets(tmp_path: Path, terminated: bool) -> None:
    view = walks(tmp_path / "data", lengths=(2, 6, 9), reward=1.0, terminated=terminated)
    policy = policy_of(view, *JOINT, "value.discount=0.5")
    network, spec = policy.network, policy.spec
    batches = PlanBatches(view, spec, batch_size=17, seed=0)
    batch, places = in_order(batches.batch_at(0)), batches._windows.batch_at(0)
    found = endpoint_targets(batch, network, spec)
    seen = monte_carlo_targets(batch, network, spec)
    value = network.endpoint(network.states.normalise(batch.states_BHS))
    goals = torch.zeros(17, 0)
    whole = plan_returns(batch, network, network.endpoint, spec, goals)
    for row in range(17):
        left = int(view.lengths[places.episodes[row]] - places.steps[row])
        for move in range(min(3, left)):
            ends = terminated and move + 1 == left
            expected = 1 / spec.return_scale + (0.0 if ends else 0.5 * value[row, move + 1].item())
            assert found[row, move].item() == pytest.approx(expected, rel=1e-4)
            to_go = sum(0.5**step for step in range(left - move))
            assert seen[row, move].item() == pytest.approx(to_go / spec.return_scale, rel=1e-4)
        assert not (terminated and seen[row, left:].any()), "after the end there is nothing"
        steps = min(3, left)
        expected = sum(0.5**step for step in range(steps)) / spec.return_scale
        if not (terminated and left <= 3):
            expected += 0.5**steps * value[row, steps].item()
        assert whole[row].item() == pytest.approx(expected, rel=1e-4)


def test_seen_returns_are_finite_long_after_the_end(tmp_path: Path) -> None:
    view = walks(tmp_path / "data", lengths=(2,), reward=1.0, terminated=True)
    policy = policy_of(view, *JOINT, "trajectory.horizon=16", "value.moves=15", "value.target=monte-carlo")
    batch = PlanBatches(view, policy.spec, batch_size=4, seed=0).batch_at(0)
    assert monte_carlo_targets(batch, policy.network, policy.spec).isfinite().all()
    assert PlannerObjective(policy.spec).loss(batch, policy.network, None).total.isfinite()


def test_expectile_weights() -> None:
    assert expectile_weights(torch.tensor([2.0, -1.0]), 0.9).tolist() == pytest.approx([0.9, 0.1])


def corridor(first: int, last: int) -> Episode:
    """A ride along a line from one mark to another, a step a mark: no ride is longer than half of the line."""
    marks = np.arange(first, last + np.sign(last - first), np.sign(last - first))
    states = np.stack([marks / 10.0, np.zeros(len(marks))], axis=1).astype(np.float32)
    return Episode(
        observations={"state": states, "goal": states},
        actions=np.zeros((len(marks) - 1, 2), np.float32),
        rewards=np.zeros(len(marks) - 1, np.float32),
        terminated=False,
        truncated=True,
        success=None,
    )


def fit_endpoint(view: EpisodeView, *overrides: str) -> PlannerNetwork:
    """The endpoint value alone, trained as in a run: the other parts share no weights with it."""
    spec = policy_of(view, *overrides).spec
    torch.manual_seed(0)
    network = PlannerNetwork(spec, *fit_normalisers(spec, view, 0))
    average = copy.deepcopy(network)
    objective, batches = PlannerObjective(spec), PlanBatches(view, spec, batch_size=64, seed=0)
    optimiser = torch.optim.AdamW(network.endpoint.parameters(), lr=0.003, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 700)
    for step in range(700):  # half as many are too few for some first weights
        batch = batches.batch_at(step)
        states_BHS = network.states.normalise(batch.states_BHS)
        objective._endpoint(batch, network, average, states_BHS).backward()
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(list(average.endpoint.parameters()), list(network.endpoint.parameters()), 0.05)
    return network


@pytest.mark.parametrize(("target", "stitches"), [("bootstrap", True), ("monte-carlo", False)])
def test_bootstrapped_values_stitch_and_seen_returns_do_not(tmp_path: Path, target: str, stitches: bool) -> None:
    """From one end of the line to the other no ride goes; only a backup across rides knows how far it is."""
    rides = [corridor(first, first + way) for first in range(9) for way in (3, 4, -3) if 0 <= first + way <= 8]
    view = write_view(tmp_path / "data", rides * 4)
    network = fit_endpoint(
        view, *STATES, f"value.target={target}", "trajectory.stride=1", "value.dim=64", "value.discount=0.8",
        "value.expectile=0.8", "data.goal_radius=0.01",
    )  # fmt: skip
    states = torch.tensor([[0.0, 0.0], [0.4, 0.0], [0.6, 0.0]])
    goals = torch.tensor([[0.8, 0.0]]).expand(3, -1)
    with torch.no_grad():
        values = network.endpoint(network.states.normalise(states), network.normalise_goals(goals))
    steps = values.log() / np.log(0.8)
    if stitches:
        assert steps.tolist() == pytest.approx([8.0, 4.0, 2.0], rel=0.3)
    else:
        assert steps[0] > 12.0, "a way that nobody went was valued as if someone had"
