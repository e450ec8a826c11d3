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
from tests.planner.worlds import JOINT, STATES, policy_of, walks


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
