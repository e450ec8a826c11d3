"""Fumbles: how often, how long, and that they disturb nothing that is drawn later."""

from __future__ import annotations

import numpy as np
import pytest

from qseq.environments.disturbances import Fumbles
from qseq.errors import RequestError


def make(probability: float, steps: int, seed: int = 0) -> Fumbles[int]:
    rng = np.random.default_rng(seed)
    return Fumbles(rng, lambda: int(rng.integers(10**6)), probability=probability, steps=steps, who="test")


@pytest.mark.parametrize("steps", [1, 4, 10])
@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_the_share_of_random_steps_is_the_probability_however_long_one_lasts(probability: float, steps: int) -> None:
    fumbles = make(probability, steps)
    share = np.mean([fumbles()[0] is not None for _ in range(20_000)])
    assert share == pytest.approx(probability, abs=0.03)


def test_a_fumble_holds_one_action_for_its_length() -> None:
    fumbles = make(0.4, 4)
    taken = [fumbles()[0] for _ in range(5000)]
    runs: dict[int, int] = {}
    for action in taken[:-4]:
        if action is not None:
            runs[action] = runs.get(action, 0) + 1
    assert set(runs.values()) == {4}


def test_what_is_drawn_does_not_depend_on_where_fumbles_fall() -> None:
    drawn = [[fumbles()[1] for _ in range(50)] for fumbles in (make(0.0, 1), make(0.9, 5))]
    assert drawn[0] == drawn[1]


@pytest.mark.parametrize(("probability", "steps"), [(1.5, 1), (-0.1, 1), (0.5, 0), (0.5, 1.5)])
def test_arguments_out_of_range_are_refused(probability: float, steps: int) -> None:
    with pytest.raises(RequestError, match="test: random_"):
        make(probability, steps)
