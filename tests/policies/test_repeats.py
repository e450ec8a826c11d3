"""What was done at an observation before is done less, in that episode only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq import Episode, load_policy
from qseq.errors import RequestError
from qseq.networks.decoding import greedy
from qseq.policies.repeats import Repeats
from qseq.registry import get_algorithm
from tests.robot.bandit import DISCRETE_SPACE, corner_episodes, write_view


def windows(*numbers: float) -> dict[str, np.ndarray]:
    return {"state": np.array(numbers, np.float32)[:, None]}


def test_a_bin_loses_the_penalty_each_time_it_is_chosen() -> None:
    repeats, scores = Repeats(0.4, 3), torch.tensor([[1.0, 0.7, -1.0]])
    chosen = []
    for _ in range(6):
        repeats.look([0], windows(1.0), ["go"])
        chosen += repeats.avoiding(greedy)(scores, 0).tolist()
    # 1.0, then 0.6 < 0.7; 0.6 > 0.3; 0.3 > 0.2; 0.2 > -0.1; -0.1 > -0.2
    assert chosen == [0, 1, 0, 1, 0, 1]
    repeats.forget([0])
    repeats.look([0], windows(1.0), ["go"])
    assert repeats.avoiding(greedy)(scores, 0).tolist() == [0]


def test_environments_observations_and_texts_are_apart() -> None:
    repeats, scores = Repeats(9.0, 3), torch.tensor([[1.0, 0.7, -1.0]] * 2)
    repeats.look([0, 1], windows(1.0, 1.0), ["go", "go"])
    assert repeats.avoiding(greedy)(scores, 0).tolist() == [0, 0]
    for environments, seen, texts, expected in (
        ([0, 2], windows(1.0, 1.0), ["go", "go"], [1, 0]),
        ([0, 1], windows(2.0, 1.0), ["go", "go"], [0, 1]),
        ([0, 1], windows(1.0, 1.0), ["stay", "go"], [0, 2]),
    ):
        repeats.look(environments, seen, texts)
        assert repeats.avoiding(greedy)(scores, 0).tolist() == expected
    other = Repeats(9.0, 3)
    other.adopt(repeats)
    other.look([2], windows(1.0), ["go"])
    assert other.avoiding(greedy)(scores[:1], 0).tolist() == [1]


@pytest.mark.parametrize("algorithm", ["bc", "q-transformer"])
def test_a_policy_tries_everything_where_nothing_changes(tmp_path: Path, algorithm: str) -> None:
    made = [
        Episode(
            observations={"state": np.zeros((2, 2), np.float32)},
            actions=np.array([1 + number % 3], np.int64),
            rewards=np.array([float(number % 3 == 1)], np.float32),
            terminated=True,
            truncated=False,
            success=number % 3 == 1,
            instruction="go",
        )
        for number in range(15)
    ]
    write_view(tmp_path / "store", made, DISCRETE_SPACE)
    train(algorithm, tmp_path)
    state = {"state": np.zeros(2, np.float32)}
    plain = load_policy(tmp_path / "run")
    assert len({int(plain.act(state, "go")) for _ in range(5)}) == 1
    policy = load_policy(tmp_path / "run", repeat_penalty=100.0)
    rounds = []
    for _ in range(2):
        policy.reset()
        rounds.append([int(policy.act(state, "go")) for _ in range(6)])
    assert rounds[0] == rounds[1]
    assert sorted(rounds[0][:3]) == sorted(rounds[0][3:]) == [1, 2, 3]
    assert rounds[0][0] == int(plain.act(state, "go"))
    with pytest.raises(RequestError, match=r"repeat_penalty: found -1.0, expected at least 0"):
        load_policy(tmp_path / "run", repeat_penalty=-1.0)
    compiled = load_policy(tmp_path / "run", repeat_penalty=1.0, compiled=True)
    with pytest.raises(RequestError, match="compiled"):
        compiled.act(state, "go")


def test_decisions_of_several_tokens_are_refused(tmp_path: Path) -> None:
    write_view(tmp_path / "store", corner_episodes(20))
    train("q-transformer", tmp_path)
    load_policy(tmp_path / "run", repeat_penalty=0.0)
    with pytest.raises(RequestError, match=r"repeat_penalty: found 0.5, expected .* more than one token"):
        load_policy(tmp_path / "run", repeat_penalty=0.5)


def train(name: str, folder: Path) -> None:
    from qseq.configuration import from_dict

    keys: dict[str, Any] = {
        "actions": {"num_bins": 4},
        "network": {"dim": 16, "encoder_depth": 1, "decoder_depth": 1, "heads": 2, "dim_head": 8, "dropout": 0.0},
        "training": {"steps": 2, "batch_size": 8, "trackers": [], "threads": 1},
    }
    algorithm = get_algorithm(name)
    algorithm.train(from_dict(algorithm.config_class, keys), data=[str(folder / "store")], run=folder / "run", seed=0)
