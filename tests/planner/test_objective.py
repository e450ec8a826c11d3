"""What the denoiser is shown in training, and how many moves the other parts learn from.

Legend: B windows, H planned states.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qseq.planner.batches import PlanBatches
from qseq.planner.objective import PlannerObjective
from tests.planner.worlds import JOINT, STATES, policy_of, walk, walks, write_view


def test_a_goal_is_shown_at_any_later_state_inside(tmp_path: Path) -> None:
    """As in planning, where it stands at the state by which it can be reached; never behind the episode's end."""
    view = walks(tmp_path / "data")
    policy = policy_of(view, *STATES, "diffusion.goal_known=1.0")
    objective, batches = PlannerObjective(policy.spec), PlanBatches(view, policy.spec, batch_size=600, seed=0)
    inside_BH = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 0]], dtype=torch.bool).repeat(200, 1)
    places_B = batches._goal_places(inside_BH, np.random.default_rng(0))
    known_BH, _, _ = objective._known(replace(batches.batch_at(0), inside_BH=inside_BH, goal_places_B=places_B))
    assert known_BH[:, 0].all()
    assert not (known_BH & ~inside_BH).any()
    assert torch.equal(known_BH[:, 1:].sum(1), torch.tensor([1, 1, 0]).repeat(200))
    assert (known_BH[::3, 1:].sum(0) > 40).all(), "each of three states in a third of 200 plans"


@pytest.mark.parametrize(("overrides", "later"), [(STATES, True), (JOINT, False)])
def test_without_goals_only_the_first_state_is_known(tmp_path: Path, overrides, later: bool) -> None:
    view = walks(tmp_path / "data")
    policy = policy_of(view, *overrides, "diffusion.goal_known=1.0")
    seen: list[torch.Tensor] = []
    forward = policy.network.denoiser.forward
    policy.network.denoiser.forward = lambda plans, levels, known, inside: (
        seen.append(known),
        forward(plans, levels, known, inside),
    )[1]
    batch = PlanBatches(view, policy.spec, batch_size=16, seed=0).batch_at(0)
    PlannerObjective(policy.spec).loss(batch, policy.network, None)
    assert seen[0][:, 0].all()
    assert bool(seen[0][:, 1:].any()) == later


def test_a_few_moves_of_each_window_are_learnt_from(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    policy = policy_of(view, *STATES, "value.moves=2")
    shapes: list[tuple[int, ...]] = []
    for part, name in ((policy.network.endpoint, "logits"), (policy.network.inverse, "forward")):
        run = getattr(part, name)
        setattr(part, name, lambda states, other, run=run: (shapes.append(tuple(states.shape)), run(states, other))[1])
    batch = PlanBatches(view, policy.spec, batch_size=16, seed=0).batch_at(0)
    PlannerObjective(policy.spec).loss(batch, policy.network, None)
    assert set(shapes) == {(16, 2, 4)}


def test_support_tells_where_the_data_have_been(tmp_path: Path) -> None:
    """Rides along two lines: between them nobody was, though it is next to both and in the middle of the data."""
    rides = []
    for number in range(40):
        across = 0.5 if number % 2 else -0.5
        along = np.linspace(-1, 1, 21) + 0.01 * np.random.default_rng(number).normal(size=21)
        states = np.stack([along, np.full(21, across), np.zeros(21), np.zeros(21)], axis=1).astype(np.float32)
        rides.append(replace(walk(20, number), observations={"state": states, "goal": states[:, :2]}))
    view = write_view(tmp_path / "data", rides)
    policy = policy_of(view, *STATES, "value.dim=32")
    network, batches = policy.network, PlanBatches(view, policy.spec, batch_size=64, seed=0)
    objective = PlannerObjective(policy.spec)
    torch.manual_seed(0)
    support = network.support.requires_grad_(True)
    optimiser = torch.optim.Adam(support.parameters(), lr=3e-3)
    for step in range(300):
        batch = batches.batch_at(step)
        objective._support(batch, network, network.states.normalise(batch.states_BHS)).backward()
        optimiser.step()
        optimiser.zero_grad()
    along = torch.linspace(-0.8, 0.8, 9)

    def least(across: float) -> torch.Tensor:
        places = torch.stack([along, torch.full((9,), across)], dim=1)
        return support(network.normalise_goals(places)).detach()

    assert (least(0.5) > 0).all()
    assert (least(-0.5) > 0).all()
    assert (least(0.0) < -2).all()
