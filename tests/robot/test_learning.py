"""Q-Transformer learns which action was worth taking; with the reward flipped it learns the opposite."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from qseq import QLearner, QRoboticTransformer, load_policy
from qseq.errors import ConfigError, RequestError
from qseq.registry import get_algorithm
from tests.robot.bandit import DISCRETE_SPACE, corner_episodes, write_view

TINY = {
    "actions": {"num_bins": 4},
    "network": {"dim": 32, "heads": 2, "dim_head": 16, "decoder_heads": 2, "decoder_dim_head": 16, "decoder_depth": 1},
    "objective": {"bootstrap_steps": [1]},
    "training": {"steps": 300, "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 20, "trackers": []},
}


def train(algorithm: str, store: Path, run: Path, **changes: object) -> Path:
    from qseq.configuration import from_dict

    chosen = get_algorithm(algorithm)
    tree = {key: value for key, value in (TINY | changes).items() if algorithm == "q-transformer" or key != "objective"}
    chosen.train(from_dict(chosen.config_class, tree), data=[str(store)], run=run, seed=0)
    return run


def corner_score(run: Path, **options: object) -> float:
    """Share of states in which the policy goes to the corner that pays when rewards are not flipped."""
    policy = load_policy(run, **options)
    random = np.random.default_rng(7)
    states = np.stack([random.choice([-1.0, 1.0], 200), random.normal(size=200)], 1).astype(np.float32)
    actions = policy.act({"state": states}, "touch the corner")
    good = (np.sign(actions[:, 0]) == states[:, 0]) & (np.sign(actions[:, 1]) == -states[:, 0])
    return float(good.mean())


def test_reward_flipped_policy_flips(tmp_path: Path) -> None:
    for flipped in (False, True):
        write_view(tmp_path / f"store{flipped}", corner_episodes(2000, flipped=flipped))
    straight = train("q-transformer", tmp_path / "storeFalse", tmp_path / "run")
    assert corner_score(straight) > 0.95
    identity = json.loads((straight / "run.json").read_text())
    assert (identity["algorithm"], identity["seed"]) == ("q-transformer", 0)
    assert corner_score(train("q-transformer", tmp_path / "storeTrue", tmp_path / "flipped")) < 0.05


def test_imitation_copies_failures_and_its_filtered_variant_does_not(tmp_path: Path) -> None:
    write_view(tmp_path / "store", corner_episodes(2000))
    cloned = train("bc", tmp_path / "store", tmp_path / "bc")
    assert corner_score(cloned, decoding="sample") == pytest.approx(0.25, abs=0.12)
    assert corner_score(train("filtered-bc", tmp_path / "store", tmp_path / "filtered"), decoding="sample") > 0.9


@pytest.mark.parametrize("value", ["bounded", "categorical", "unbounded"])
def test_every_value_head_learns(tmp_path: Path, value: str) -> None:
    write_view(tmp_path / "store", corner_episodes(1000))
    objective = {"bootstrap_steps": [1], "value": value}
    assert corner_score(train("q-transformer", tmp_path / "store", tmp_path / "run", objective=objective)) > 0.9


def test_the_learner_trains_saves_and_loads(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", corner_episodes(1000))
    torch.manual_seed(0)
    sizes = {"state_dim": 2, "num_actions": 2, "action_bins": 4, "dim": 32, "heads": 2, "dim_head": 16}
    model = QRoboticTransformer(**sizes)  # type: ignore[arg-type]
    learner = QLearner(
        model, dataset=view, num_train_steps=250, batch_size=64, learning_rate=2e-3, training_kwargs={"trackers": ()}
    )
    before = model(torch.randn(1, 2)).detach()
    assert learner() is None  # nothing was asked to be kept
    assert not learner.run.exists()
    learner.save(tmp_path / "saved")
    assert corner_score(tmp_path / "saved") > 0.9
    other = QLearner(
        QRoboticTransformer(**sizes),  # type: ignore[arg-type]
        dataset=view,
        training_kwargs={"trackers": ()},
    )
    other.load(tmp_path / "saved")
    state = torch.randn(3, 2)
    torch.testing.assert_close(other.model.eval()(state), model.eval()(state))
    assert before.shape == (1, 1, 4)


def test_a_model_that_does_not_fit_the_data_is_refused(tmp_path: Path) -> None:
    view = write_view(tmp_path / "store", corner_episodes(5))
    with pytest.raises(RequestError, match="num_actions = 2"):
        QLearner(QRoboticTransformer(state_dim=2, num_actions=3, action_bins=4), dataset=view)
    with pytest.raises(RequestError, match=r"'state' has shape \(2,\), expected \(5,\)"):
        QLearner(QRoboticTransformer(state_dim=5, num_actions=2, action_bins=4), dataset=view)


def test_returns_outside_the_value_range_are_refused_before_training(tmp_path: Path) -> None:
    from dataclasses import replace

    episodes = [replace(e, rewards=e.rewards * 5) for e in corner_episodes(10)]
    write_view(tmp_path / "store", episodes)
    with pytest.raises(ConfigError, match=r"value_low.*\[0, 5\]"):
        train("q-transformer", tmp_path / "store", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_discrete_actions(tmp_path: Path) -> None:
    from dataclasses import replace

    episodes = []
    for e in corner_episodes(600):
        choice = np.random.default_rng(len(episodes)).integers(1, 4, size=1)
        success = bool(choice[0] == (1 if e.observations["state"][0, 0] > 0 else 3))
        episodes.append(replace(e, actions=choice, rewards=np.array([float(success)], np.float32), success=success))
    write_view(tmp_path / "store", episodes, DISCRETE_SPACE)
    policy = load_policy(train("q-transformer", tmp_path / "store", tmp_path / "run"))
    assert int(policy.act(np.array([1.0, 0.0], np.float32))) == 1
    assert int(policy.act(np.array([-1.0, 0.0], np.float32))) == 3
