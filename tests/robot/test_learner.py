"""`QLearner` in its regimes, from a replay folder that an Agent wrote: it learns, and it learns from the reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs

from qseq import Agent, QLearner, QRoboticTransformer, ReplayMemoryDataset
from qseq.errors import QseqError, RequestError
from qseq.robot import QObjectiveConfig
from qseq.values import BoundedValue, UnboundedValue
from tests.robot.bandit import corner_episodes, write_view
from tests.robot.late_reward import INSTRUCTIONS, LateReward, wanted, with_flipped_rewards

SIZES: dict[str, Any] = {"dim": 32, "heads": 2, "dim_head": 16, "q_head_attn_kwargs": {"attn_depth": 1}}


def make_model(num_actions: int = 1, **changes: Any) -> QRoboticTransformer:
    torch.manual_seed(0)
    return QRoboticTransformer(
        **(SIZES | {"state_dim": 2 + num_actions, "num_actions": num_actions, "action_bins": 2} | changes)
    )


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[int, bool, bool], Path]:
    """(actions, told, flipped) -> replay folder of random episodes."""
    found = {}
    for num_actions, told in ((1, True), (2, True), (1, False)):
        root = tmp_path_factory.mktemp("replay")
        Agent(
            make_model(num_actions),
            environment=LateReward(num_actions, told=told),
            memories_dataset_folder=root / "straight",
            num_episodes=200,
            epsilon_start=1.0,
            epsilon_end=1.0,
        )()
        with_flipped_rewards(root / "straight", root / "flipped")
        found[num_actions, told, False], found[num_actions, told, True] = root / "straight", root / "flipped"
    return found


def first_actions(model: QRoboticTransformer, num_actions: int, told: bool) -> list[list[int]]:
    """What the greedy policy does first, for each goal."""
    states = torch.zeros(2, 2 + num_actions)
    if not told:
        states[:, 1] = torch.tensor([-1.0, 1.0])
    texts = list(INSTRUCTIONS) if told else None
    chosen: list[list[int]] = model.eval().get_optimal_actions(states, texts).tolist()
    return chosen


@pytest.mark.parametrize(
    ("num_actions", "num_timesteps", "told", "changes"),
    [
        pytest.param(2, 1, True, {}, id="autoregressive, 1 step"),
        pytest.param(2, 3, True, {}, id="autoregressive, 3 steps"),
        pytest.param(1, 1, True, {}, id="single action, 1 step"),
        pytest.param(1, 3, True, {}, id="single action, 3 steps"),
        pytest.param(1, 3, False, {}, id="single action, 3 steps, no text"),
        pytest.param(1, 2, True, {"monte_carlo_return": False}, id="single action, 2 steps, no bound"),
        pytest.param(2, 2, True, {"bootstrap": "max"}, id="autoregressive, 2 steps, the paper's backup"),
    ],
)
def test_the_loss_falls_and_flipped_rewards_flip_the_policy(
    folders: dict[tuple[int, bool, bool], Path],
    tmp_path: Path,
    num_actions: int,
    num_timesteps: int,
    told: bool,
    changes: dict[str, Any],
) -> None:
    for flipped in (False, True):
        model = make_model(num_actions)
        arguments: dict[str, Any] = {"n_step_q_learning": num_timesteps > 1, **changes}
        if "bootstrap" in changes:
            arguments = {
                "objective": QObjectiveConfig(
                    bootstrap=changes["bootstrap"], bootstrap_steps=(num_timesteps,), conservative_weight=1.0
                )
            }
        learner = QLearner(
            model,
            dataset=ReplayMemoryDataset(folders[num_actions, told, flipped], num_timesteps),
            num_train_steps=200,
            batch_size=64,
            learning_rate=2e-3,
            q_target_ema_kwargs={"beta": 0.9, "update_every": 1},
            checkpoint_folder=tmp_path / str(flipped),
            training_kwargs={"trackers": (), "warmup_steps": 10, "log_every": 20},
            **arguments,
        )
        learner()
        lines = (tmp_path / str(flipped) / "metrics.jsonl").read_text().splitlines()
        losses = [json.loads(line)["loss"] for line in lines]
        assert losses[-1] < 0.7 * losses[0]
        chosen = first_actions(model, num_actions, told)
        right = [actions == wanted(goal, num_actions) for goal, actions in enumerate(chosen)]
        assert right == [not flipped] * 2


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"accelerator_kwargs": {"split_batches": True}},
            "accelerator_kwargs: found 'split_batches', expected",
        ),
        ({"accelerator_kwargs": {"gradient_accumulation_steps": 2}}, "use grad_accum_every"),
        ({"accelerator_kwargs": {"mixed_precision": "fp8"}}, "expected 'no' or 'bf16'"),
        ({"dataloader_kwargs": {"shufle": True}}, "dataloader_kwargs: found 'shufle', expected some of shuffle"),
        ({"dataloader_kwargs": {"num_workers": 4}}, "one background thread"),
        ({"dataloader_kwargs": {"shuffle": "no"}}, "expected True or False"),
        ({"optimizer_kwargs": {"lr": 1e-3}}, "use learning_rate"),
        ({"optimizer_kwargs": {"amsgrad": True}}, "optimizer_kwargs: found 'amsgrad', expected some of betas, eps"),
        ({"q_target_ema_kwargs": {"power": 0.7}}, "q_target_ema_kwargs: found 'power', expected some of beta"),
        ({"monte_carlo_return": 0.5}, "monte_carlo_return: found 0.5"),
        ({"num_timesteps": 4}, "n_step_q_learning=True only"),
        ({"n_step_q_learning": True, "num_timesteps": 1}, "found 1 step"),
        ({"min_reward": -1.0}, "min_reward: found -1.0, expected 0.0, the least value of the model"),
        ({"objective": QObjectiveConfig(), "discount_factor_gamma": 0.5}, "discount_factor_gamma: found 0.5 beside"),
        ({"objective": QObjectiveConfig(value="categorical")}, "model: found logits that mean BoundedValue"),
        (
            {"objective": QObjectiveConfig(matching_weight=1.0, matching_steps=3)},
            "objective.matching_steps: found 3, expected 0: a QLearner",
        ),
        ({"objective": QObjectiveConfig(mismatched_share=0.1)}, r"mismatched_share: found 0.1.* have 1 instruction"),
        ({"discount_factor_gamma": 1.5}, "discount"),
        ({"training_kwargs": {"betas": [0.5, 0.5]}, "optimizer_kwargs": {"betas": (0.9, 0.9)}}, "says already"),
        ({"training_kwargs": {"learning_rat": 1.0}}, "learning_rate"),
    ],
)
def test_wrong_arguments_are_refused(tmp_path: Path, wrong: dict[str, Any], message: str) -> None:
    view = write_view(tmp_path / "store", corner_episodes(5))
    with pytest.raises(RequestError, match=message):
        QLearner(make_model(2, state_dim=2), dataset=view, checkpoint_folder=tmp_path / "run", **wrong)
    assert not (tmp_path / "run").exists()


def test_arguments_mean_what_they_say(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", corner_episodes(5))
    learner = QLearner(
        make_model(2, state_dim=2, values=BoundedValue(-1.0, 3.0)),
        dataset=view,
        min_reward=-1.0,
        grad_accum_every=2,
        monte_carlo_return=False,
        discount_factor_gamma=0.9,
        conservative_reg_loss_weight=0.25,
        n_step_q_learning=True,
        num_timesteps=4,
        max_grad_norm=0.1,
        weight_decay=0.2,
        accelerator_kwargs={
            "cpu": True,
            "mixed_precision": "bf16",
            "log_with": "tensorboard",
            "kwargs_handlers": [DistributedDataParallelKwargs(bucket_cap_mb=7)],
        },
        dataloader_kwargs={"shuffle": False},
        optimizer_kwargs={"betas": (0.5, 0.6), "eps": 1e-4},
        q_target_ema_kwargs={"beta": 0.9, "update_after_step": 3, "update_every": 2},
        checkpoint_folder=tmp_path / "run",
    )
    trainer, config = learner.trainer, learner.trainer.config
    objective = trainer.objective.config  # type: ignore[attr-defined]
    assert (objective.value_low, objective.value_high, objective.bootstrap_steps) == (-1.0, 3.0, (4,))
    assert (objective.discount, objective.monte_carlo_bound, objective.conservative_weight) == (0.9, False, 0.25)
    assert (config.betas, config.adam_epsilon, config.precision) == ((0.5, 0.6), 1e-4, "bf16")
    assert (config.target_rate, config.target_start, config.target_every) == (pytest.approx(0.1), 3, 2)
    assert (config.trackers, config.grad_accum_every) == (("tensorboard",), 2)
    assert (config.max_grad_norm, config.weight_decay) == (0.1, 0.2)
    assert trainer.accelerator.device.type == "cpu"
    assert trainer.accelerator.ddp_handler.bucket_cap_mb == 7
    batch = trainer.batches.batch_at(0)
    assert batch.episodes[:7].tolist() == [0, 1, 2, 3, 4, 0, 1]  # in order, epoch after epoch
    trainer._prepare()
    (group, *_) = trainer.optimiser.param_groups
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.5, 0.6), 1e-4, 0.2)


def test_an_accelerator_may_be_given(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", corner_episodes(5))
    accelerator = Accelerator(cpu=True)
    learner = QLearner(make_model(2, state_dim=2), dataset=view, accelerator=accelerator)
    assert learner.trainer.accelerator is accelerator
    with pytest.raises(RequestError, match="give one of them"):
        QLearner(make_model(2, state_dim=2), dataset=view, accelerator=accelerator, accelerator_kwargs={"cpu": True})


def test_returns_outside_the_values_are_refused(tmp_path: Path) -> None:
    from dataclasses import replace

    view = write_view(tmp_path / "store", [replace(e, rewards=e.rewards * 5) for e in corner_episodes(10)])
    with pytest.raises(QseqError, match=r"returns in the data span \[0, 5\]: build the model with values"):
        QLearner(make_model(2, state_dim=2), dataset=view)
    learner = QLearner(make_model(2, state_dim=2, values=UnboundedValue()), dataset=view, min_reward=-2.0)
    objective = learner.trainer.objective.config  # type: ignore[attr-defined]
    assert (objective.value, objective.value_low) == ("unbounded", -2.0)
