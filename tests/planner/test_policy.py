"""A planner as a policy: a plan an environment, followed and made anew; saved, loaded, and refusing what is wrong."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from qseq import load_policy
from qseq.cli.main import main
from qseq.errors import ConfigError, RequestError
from qseq.planner.algorithm import make_trainer
from qseq.planner.policy import DiffuserPolicy
from qseq.registry import get_algorithm
from tests.planner.worlds import JOINT, SMALL, STATES, config_of, policy_of, walk, walks, write_view

RETURNS = ("trajectory.stride=2", "data.state_field=state", "value.guide=true", "planning.guidance_scale=0.5")


def observe(rows: int, seed: int = 0, goal: float = 0.5) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    goals = np.full((rows, 2), goal, np.float32)
    return {"state": random.normal(size=(rows, 4)).astype(np.float32), "goal": goals}


def first(observation: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values[0] for name, values in observation.items()}


@pytest.mark.parametrize("overrides", [STATES, JOINT, RETURNS])
def test_actions_lie_in_the_action_space(tmp_path: Path, overrides) -> None:
    policy = policy_of(walks(tmp_path / "data"), *overrides)
    for step in range(5):
        actions = policy.act(observe(3, step))
        assert actions.shape == (3, 2)
        assert (np.abs(actions) <= 1.0).all()
    assert policy.act(first(observe(1))).shape == (2,)


def test_a_plan_is_followed_until_it_is_old_or_the_goal_moves(tmp_path: Path) -> None:
    policy = policy_of(walks(tmp_path / "data"), *STATES, replan_every=3)
    made: list[int] = []
    plan = policy.planner.plan
    policy.planner.plan = lambda states, *rest, **options: (made.append(len(states)), plan(states, *rest, **options))[1]
    for step in range(4):
        policy.act(observe(2, step))
    assert made == [2, 2], "at the start, and after three steps"
    policy.act({**observe(2, 9), "goal": np.array([[0.5, 0.5], [0.7, 0.5]], np.float32)})
    assert made == [2, 2, 1], "only for the environment whose goal has moved"
    policy.reset([0])
    policy.act({**observe(2, 9), "goal": np.array([[0.5, 0.5], [0.7, 0.5]], np.float32)})
    assert made == [2, 2, 1, 1]


def test_environments_do_not_share_plans(tmp_path: Path) -> None:
    policy = policy_of(walks(tmp_path / "data"), *STATES)
    policy.act(observe(2), environment_ids=[5, 7])
    assert sorted(policy.plans) == [5, 7]
    before = policy.plans[7].states_HS.clone()
    policy.reset([5])
    policy.act(observe(1, 3), environment_ids=[5])
    assert torch.equal(policy.plans[7].states_HS, before)


def test_a_warm_start_is_a_matter_of_each_environment(tmp_path: Path) -> None:
    """Begun from an environment's own last plan for this goal, whether or not another one has just been reset."""
    policy = policy_of(walks(tmp_path / "data"), *STATES, replan_every=1, warm_start=0.4)
    begun: list[tuple[int, bool]] = []
    plan = policy.planner.plan
    policy.planner.plan = lambda states, goals, *, previous_EHX, **options: (
        begun.append((len(states), previous_EHX is not None)),
        plan(states, goals, previous_EHX=previous_EHX, **options),
    )[1]
    policy.act(observe(3))
    policy.reset([1])
    policy.act(observe(3, 1))
    assert begun == [(3, False), (2, True), (1, False)]
    policy.act(observe(3, 2, goal=0.7))
    assert begun[3:] == [(3, False)], "the last plans lead to another goal"


def test_the_seed_fixes_all_choices(tmp_path: Path) -> None:
    policy = policy_of(walks(tmp_path / "data"), *STATES)
    runs = []
    for _ in range(2):
        policy.reset()
        policy.seed(3)
        runs.append([policy.act(observe(2, step)) for step in range(3)])
    np.testing.assert_array_equal(runs[0], runs[1])


@pytest.mark.parametrize("overrides", [STATES, JOINT, RETURNS, (*JOINT, "denoiser.kind=unet", "denoiser.dim=24")])
def test_saving_and_loading_keeps_actions_and_needs_no_environment(tmp_path: Path, overrides) -> None:
    policy = policy_of(walks(tmp_path / "data"), *overrides)
    policy.save_pretrained(tmp_path / "saved")
    loaded = load_policy(tmp_path / "saved")
    assert isinstance(loaded, DiffuserPolicy)
    assert loaded.spec == policy.spec
    np.testing.assert_array_equal(policy.act(observe(2)), loaded.act(observe(2)))
    assert load_policy(tmp_path / "saved", candidates=2, steps=1).describe()["planning"]["candidates"] == 2


def test_a_checkpoint_gives_the_moving_average(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    trainer = make_trainer(config_of(*STATES, "training.target_rate=0.1"), view, run=tmp_path / "run", seed=0)
    trainer.train()
    loaded = load_policy(tmp_path / "run")
    assert trainer.average is not None
    for found, average in zip(loaded.network.parameters(), trainer.average.model.parameters(), strict=True):
        torch.testing.assert_close(found, average)
    assert loaded.spec.counts["episodes_shorter_than_a_plan"] == 0


def test_resuming_gives_the_same_numbers(tmp_path: Path) -> None:
    walks(tmp_path / "data")
    algorithm = get_algorithm("diffuser")
    options = (*STATES, "training.checkpoint_every=2", "training.log_every=1")
    for run, steps in (("whole", (4,)), ("halved", (2, 4))):
        for part, count in enumerate(steps):
            config = config_of(*options, f"training.steps={count}", "training.schedule=constant")
            algorithm.train(config, data=[str(tmp_path / "data")], run=tmp_path / run, resume=part > 0)
    whole, halved = (load_policy(tmp_path / run).network for run in ("whole", "halved"))
    for one, other in zip(whole.parameters(), halved.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_command_line_resumes_with_data_that_fit(tmp_path: Path, capsys) -> None:
    walks(tmp_path / "data")
    short = replace(walk(9, 0), observations={name: np.zeros((10, 2), np.float32) for name in ("state", "goal")})
    write_view(tmp_path / "other", [short])
    overrides = [*SMALL, *STATES, "training.schedule=constant"]
    command = ["train", "--algo", "diffuser", "--out", str(tmp_path / "run"), *overrides]
    assert main([*command, "--data", str(tmp_path / "data"), "--steps", "2"]) == 0
    assert main([*command, "--data", str(tmp_path / "data"), "--steps", "3", "--resume"]) == 0
    assert load_policy(tmp_path / "run").spec.fields == {"state": (4,), "goal": (2,)}
    assert main([*command, "--data", str(tmp_path / "other"), "--steps", "4", "--resume"]) == 2
    assert "field 'state': found [2], expected [4]" in capsys.readouterr().err


def test_observations_that_are_wrong_are_named(tmp_path: Path) -> None:
    policy = policy_of(walks(tmp_path / "data"), *STATES)
    with pytest.raises(RequestError, match=r"field 'state' has shape \[2, 3\], expected \[4\]"):
        policy.act({**observe(2), "state": np.zeros((2, 3), np.float32)})
    with pytest.raises(RequestError, match="field 'goal' is missing"):
        policy.act({"state": np.zeros(4, np.float32)})
    broken = observe(2)
    broken["state"][1, 2] = np.nan
    with pytest.raises(RequestError, match=r"field 'state' holds nan in entry 2 of row 1"):
        policy.act(broken)
    with pytest.raises(RequestError, match="expected none"):
        policy.act(observe(2), "go there")


def test_a_goal_beyond_the_data_is_warned_about_once(tmp_path: Path) -> None:
    policy = policy_of(walks(tmp_path / "data"), *STATES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.act(observe(1, goal=0.1))
    with pytest.warns(UserWarning, match=r"goal \[99.0, 99.0\] is outside of what the data reached"):
        policy.act(observe(1, goal=99.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        policy.act(observe(1, goal=98.0))


def test_options_that_there_are_not(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    with pytest.raises(RequestError, match="found 'canditates', expected some of"):
        policy_of(view, *STATES, canditates=3)
    with pytest.raises(ConfigError, match="candidates"):
        policy_of(view, *STATES, candidates=0)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("trajectory.contents=states-actions", "trajectory.stride=2"), "trajectory.stride: found 2, expected 1"),
        (("data.state_field=place",), "found no field 'place', expected one of goal, state"),
        (("data.goal_dimensions=[0, 9]",), r"data.goal_dimensions: found \[0, 9\], expected 2 of the 4 entries"),
        (("planning.guidance_scale=1.0",), "value.guide=true"),
        (("planning.selection=critic",), "value.critic=true"),
        (("denoiser.kind=unet", "denoiser.depth=3", "trajectory.horizon=6"), "expected a multiple of 4"),
    ],
)
def test_configurations_that_cannot_be(tmp_path: Path, overrides, message: str) -> None:
    view = walks(tmp_path / "data")
    with pytest.raises(RequestError, match=message):
        make_trainer(config_of(*STATES, *overrides), view, run=tmp_path / "run", seed=0)
    assert not (tmp_path / "run").exists()


def test_the_state_field_is_found_or_asked_for(tmp_path: Path) -> None:
    view = walks(tmp_path / "data")
    policy = policy_of(view, *STATES, "data.state_field=''")
    assert policy.spec.data.state_field == "state"


def test_actions_must_be_continuous(tmp_path: Path) -> None:
    episode = walks(tmp_path / "data").episode(0)
    discrete = replace(episode, actions=np.zeros(len(episode.actions), np.int64))
    view = write_view(tmp_path / "discrete", [discrete], {"type": "discrete", "n": 3, "start": 0})
    with pytest.raises(RequestError, match="found actions of type 'discrete', expected a box"):
        policy_of(view, *STATES)
