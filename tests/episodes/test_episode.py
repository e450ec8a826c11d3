"""Invalid episodes are refused in one line that says what is wrong and where."""

from __future__ import annotations

import re

import numpy as np
import pytest

from qseq.episodes import Episode
from qseq.errors import DataError

from .builders import make_episode


def with_value(array: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    changed = array.astype(np.float32)
    changed[place] = value
    return changed


GOOD = make_episode(4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"observations": {"state": with_value(np.zeros((5, 3)), (2, 1), np.nan)}},
            r"'state', step 2.*\[1\].*found nan",
        ),
        ({"observations": {"state": with_value(np.zeros((5, 3)), (4, 0), np.inf)}}, r"'state', step 4.*found inf"),
        ({"actions": with_value(GOOD.actions, (3, 1), -np.inf)}, r"'action', step 3.*found -inf"),
        ({"rewards": with_value(GOOD.rewards, (1,), np.nan)}, r"'reward', step 1: found nan"),
        ({"observations": {"state": np.zeros((4, 3))}}, r"'state': found 4 observations, expected 5"),
        ({"rewards": np.zeros(5)}, r"'reward': found shape \[5\], expected \[4\]"),
        ({"rewards": np.zeros((4, 1))}, r"'reward': found shape \[4, 1\]"),
        ({"actions": np.zeros((0, 2)), "rewards": np.zeros(0)}, r"'action': found 0 steps"),
        ({"observations": {}}, r"no observation field"),
        ({"observations": {"reward": np.zeros((5, 1))}}, r"'reward', expected a name other"),
        ({"observations": {"state": np.array(["a"] * 5)}}, r"'state': found dtype <U1, expected numbers"),
        ({"observations": {"state": [[0.0]] * 5}}, r"'state': found list, expected a numpy array"),
        ({"terminated": True, "truncated": True}, r"both terminated and truncated"),
        ({"metadata": {"a": [1]}}, r"metadata 'a': found list"),
        ({"metadata": {"a": float("nan")}}, r"metadata 'a': found nan"),
        ({"success": 1}, r"success: found 1"),
        ({"instruction": None}, r"instruction: found NoneType"),
    ],
)
def test_refused(changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make_episode(4, **changes).validate("episode 7")
    text = str(caught.value)
    assert text.startswith("episode 7")
    assert "\n" not in text


def test_accepted() -> None:
    for seed in range(3):
        make_episode(4, seed).validate()
    # Sums of finite numbers may overflow: that is no reason to refuse them.
    big = np.full((5, 3), 1e308)
    make_episode(4, observations={"state": big}).validate()


def test_frozen_and_keyword_only() -> None:
    with pytest.raises(TypeError):
        Episode({}, np.zeros(1), np.zeros(1), True, False)  # type: ignore[misc]
    with pytest.raises(AttributeError):
        GOOD.terminated = True  # type: ignore[misc]
    assert re.fullmatch(r"4", str(GOOD.num_steps))
