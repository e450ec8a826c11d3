"""A policy that remembers its actions is shown the same in training and when it acts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq.episodes import (
    PAST_ACTIONS,
    ActionSpace,
    Episode,
    EpisodeStore,
    EpisodeView,
    PastActions,
    StoreWriter,
    WindowSpec,
)
from qseq.episodes.windows import Windows
from qseq.networks.past_actions import PastActionEncoder
from qseq.networks.text import Instruction
from qseq.policies.memory import ActionMemory

DISCRETE = ActionSpace.from_json({"type": "discrete", "n": 3, "start": 1})
BOX = ActionSpace.from_json({"type": "box", "low": [0.0, "-inf"], "high": [4.0, "inf"], "shape": [2]})
MULTI = ActionSpace.from_json({"type": "multi_discrete", "nvec": [2, 3], "start": [0, 5]})


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (DISCRETE, 2, [0, 1, 0, 1]),
        (BOX, [3.0, -7.0], [0.5, -7.0, 1]),
        (MULTI, [1, 5], [0, 1, 1, 0, 0, 1]),
    ],
)
def test_actions_as_numbers(space: ActionSpace, action: Any, expected: list[float]) -> None:
    past = PastActions(space, steps=2)
    assert past.shape == (2, len(expected))
    vectors = past.vectors(np.array([action, action]), np.array([True, False]))
    np.testing.assert_allclose(vectors, [expected, [0.0] * len(expected)])
    assert vectors.dtype == np.float32


def test_along_an_episode() -> None:
    past = PastActions(DISCRETE, steps=2)
    shown = past.along(np.array([1, 2, 3]), np.array([0, 1, 3]))
    nothing, first, second, third = [0, 0, 0, 0], [1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1]
    np.testing.assert_array_equal(shown, [[nothing, nothing], [nothing, first], [second, third]])


def test_windows_show_what_was_done_before_each_frame(tmp_path: Path) -> None:
    """At t, and at the states that are bootstrapped from, also where the episode's end comes first."""
    space = {"type": "discrete", "n": 5, "start": 0}
    rng = np.random.default_rng(0)
    actions = [rng.integers(5, size=length) for length in (4, 7)]
    with StoreWriter(tmp_path / "store", action_space=space) as writer:
        for taken in actions:
            writer.add(
                Episode(
                    observations={"state": np.arange(len(taken) + 1, dtype=np.float32)[:, None]},
                    actions=taken,
                    rewards=np.zeros(len(taken), np.float32),
                    terminated=False,
                    truncated=True,
                )
            )
    view = EpisodeView(EpisodeStore.open(tmp_path / "store"))
    past = PastActions(ActionSpace.from_json(space), steps=3)
    spec = WindowSpec(history=2, bootstrap_steps=(1, 3))
    windows = Windows(view, spec, batch_size=4, seed=0, discount=0.9, past_actions=past)
    for episode, taken in enumerate(actions):
        for step in range(len(taken)):
            batch = windows.windows_at(np.array([episode]), np.array([step]))
            rows = batch.frames["state"][0, :, 0].long().numpy()
            expected = past.along(taken, rows)
            np.testing.assert_array_equal(batch.frames[PAST_ACTIONS][0].numpy(), expected)


def test_the_memory_of_a_policy_agrees_with_the_windows() -> None:
    past = PastActions(DISCRETE, steps=2)
    memory = ActionMemory(past)
    actions = np.array([1, 3, 2, 2])
    for step in range(4):
        for environment in (7, 9):
            shown = memory.fields([environment])[PAST_ACTIONS][0]
            np.testing.assert_array_equal(shown, past.along(actions, np.array(step)))
        memory.add(7, actions[step])
        memory.add(9, np.array(1))
        memory.replace_last(9, actions[step])  # something else was done
    memory.forget([7])
    assert not memory.fields([7])[PAST_ACTIONS].any()
    assert memory.fields([9])[PAST_ACTIONS].any()
    assert ActionMemory(None).fields([0]) == {}


def test_in_training_the_whole_memory_is_dropped_at_times() -> None:
    torch.manual_seed(0)
    encoder = PastActionEncoder((3, 4), 8, drop_probability=0.5)
    past = PastActions(DISCRETE, steps=3)
    shown = torch.from_numpy(past.vectors(np.full((400, 1, 3), 2), np.ones((400, 1, 3), bool)))
    instruction = Instruction(torch.zeros(400, 8))
    absent = encoder.absent_D + encoder.age_mD
    dropped_Bm = (encoder(shown, instruction) == absent).all(-1)[:, 0]
    assert (dropped_Bm.any(1) == dropped_Bm.all(1)).all()
    assert 0.4 < dropped_Bm.all(1).float().mean() < 0.6
    assert not (encoder.eval()(shown, instruction) == absent).all(-1).any()
