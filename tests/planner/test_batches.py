"""Windows of plans: strided, marked where the episode ends, with goals from hindsight.

Legend: B windows, H planned states.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qseq.errors import DataError
from qseq.planner.algorithm import make_spec
from qseq.planner.batches import PlanBatches
from qseq.planner.objective import PlannerObjective
from tests.planner.worlds import JOINT, STATES, config_of, policy_of, walks


def batches_of(view, *overrides: str, batch_size: int = 32) -> PlanBatches:
    return PlanBatches(view, make_spec(config_of(*overrides), view), batch_size=batch_size, seed=3)


def test_states_lie_a_stride_apart_and_the_end_is_marked(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    batches = batches_of(view, *STATES)
    batch = batches.batch_at(0)
    places = batches._windows.batch_at(0)
    for row in range(len(batch)):
        episode, start = int(places.episodes[row]), int(places.steps[row])
        states = view.episode(episode).observations["state"]
        for number in range(4):
            step = start + 2 * number
            assert bool(batch.inside_BH[row, number]) == (step < len(states))
            found = batch.states_BHS[row, number].numpy()
            np.testing.assert_array_equal(found, states[min(step, len(states) - 1)])


def test_a_batch_is_a_function_of_its_index(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    first, again = batches_of(view, *STATES).batch_at(7), batches_of(view, *STATES).batch_at(7)
    for name in vars(first):
        assert torch.equal(getattr(first, name), getattr(again, name))
    assert not torch.equal(first.goals_BHG, batches_of(view, *STATES).batch_at(8).goals_BHG)


def test_goals_are_what_was_reached_later(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    batches = batches_of(view, *STATES, "value.future_goals=1.0")
    batch, places = batches.batch_at(0), batches._windows.batch_at(0)
    assert (batch.goal_steps_BH >= 0).all()
    for row in range(len(batch)):
        states = view.episode(int(places.episodes[row])).observations["state"]
        for number in range(4):
            step = min(int(places.steps[row]) + 2 * number, len(states) - 1)
            ahead = int(batch.goal_steps_BH[row, number])
            assert ahead >= 1 or step == len(states) - 1
            np.testing.assert_array_equal(batch.goals_BHG[row, number].numpy(), states[step + ahead, :2])
    assert (batches_of(view, *STATES, "value.future_goals=0.0").batch_at(0).goal_steps_BH == -1).all()


def test_short_episodes_are_used_and_counted(tmp_path: Path) -> None:
    view = walks(tmp_path / "data", lengths=(3, 4, 20))
    batches = batches_of(view, *STATES)
    assert batches.counts == {
        "windows": 27,
        "full_windows": 15,
        "episodes": 3,
        "episodes_shorter_than_a_plan": 2,
        "longest_episode": 20,
    }
    assert set(batches._windows.batch_at(0).episodes.tolist()) == {0, 1, 2}


def test_no_episode_long_enough_is_an_error(tmp_path: Path) -> None:
    view = walks(tmp_path / "data", lengths=(3, 4))
    with pytest.raises(DataError, match=r"at most 4 steps, expected more than trajectory.stride=5"):
        batches_of(view, *STATES, "trajectory.stride=5")


@pytest.mark.parametrize("overrides", [STATES, (*STATES, "value.critic=true", "value.guide=true"), JOINT])
@pytest.mark.parametrize("kind", ["transformer", "unet"])
def test_padding_does_not_leak_into_training(tmp_path: Path, overrides, kind: str) -> None:
    """Whatever stands behind the episode's end changes neither the loss nor any gradient."""
    view = walks(tmp_path / "data", lengths=(4, 5, 6))
    size = ("denoiser.kind=unet", "denoiser.dim=24", "denoiser.depth=2") if kind == "unet" else ()
    policy = policy_of(view, *overrides, *size)
    policy.network.requires_grad_(True)
    batch = PlanBatches(view, policy.spec, batch_size=16, seed=0).batch_at(0)
    assert not batch.inside_BH.all()
    outside_BH1 = ~batch.inside_BH.unsqueeze(-1)
    moved = replace(
        batch,
        states_BHS=torch.where(outside_BH1 & _never_reached(batch), 50.0, batch.states_BHS),
        actions_BHA=torch.where(batch.acted_BH.unsqueeze(-1), batch.actions_BHA, 0.9),
    )

    def gradients(shown):
        policy.network.zero_grad()
        torch.manual_seed(0)
        losses = PlannerObjective(policy.spec).loss(shown, policy.network, None)
        losses.total.backward()
        return losses.total.item(), [p.grad.clone() for p in policy.network.parameters() if p.grad is not None]

    (total, grads), (total_moved, grads_moved) = gradients(batch), gradients(moved)
    assert total == pytest.approx(total_moved, rel=1e-5)
    for one, other in zip(grads, grads_moved, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def _never_reached(batch) -> torch.Tensor:
    """True for rows whose last move ends exactly inside: a shorter last move leads to a true state, which counts."""
    partial_BH = torch.zeros_like(batch.inside_BH)
    partial_BH[:, 1:] = (batch.steps_BH.diff(dim=1) > 0) & ~batch.inside_BH[:, 1:]
    return ~partial_BH.unsqueeze(-1)
