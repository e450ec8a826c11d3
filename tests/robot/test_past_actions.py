"""What the frames do not show, but the last action does: only a policy that knows what it did can act on it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qseq import load_policy
from qseq.configuration import from_dict
from qseq.episodes import Episode
from qseq.registry import get_algorithm
from tests.robot.bandit import write_view
from tests.robot.test_learning import TINY

SPACE = {"type": "discrete", "n": 2, "start": 0}


def twice_the_same(count: int) -> list[Episode]:
    """Two random actions under a blank observation; the reward is 1 if the second is the first again."""
    random = np.random.default_rng(0)
    episodes = []
    for actions in random.integers(2, size=(count, 2)):
        success = bool(actions[0] == actions[1])
        episodes.append(
            Episode(
                observations={"state": np.zeros((3, 1), np.float32)},
                actions=actions,
                rewards=np.array([0.0, float(success)], np.float32),
                terminated=True,
                truncated=False,
                success=success,
            )
        )
    return episodes


@pytest.mark.parametrize("past_actions", [0, 1])
def test_a_policy_that_knows_what_it_did(tmp_path: Path, past_actions: int) -> None:
    write_view(tmp_path / "store", twice_the_same(300), SPACE)
    tree = {**TINY, "data": {"past_actions": past_actions}, "decoding": {"epsilon": 0.0}}
    chosen = get_algorithm("q-transformer")
    chosen.train(from_dict(chosen.config_class, tree), data=[str(tmp_path / "store")], run=tmp_path / "run", seed=0)
    policy = load_policy(tmp_path / "run")
    assert policy.observation_fields == {"state": (1,)}
    seconds = []
    for first in (0, 1):
        policy.reset()
        policy.act({"state": np.zeros((1, 1), np.float32)})
        policy.was_done(0, np.array(first))
        seconds.append(int(policy.act({"state": np.zeros((1, 1), np.float32)})[0]))
    if past_actions:
        assert seconds == [0, 1]
        values_TAK = policy.action_values({"state": np.zeros((3, 1), np.float32)}, None, np.array([1, 0]))
        assert values_TAK[1, 0].argmax() == 1
    else:
        assert seconds[0] == seconds[1]
