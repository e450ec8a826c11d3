"""Returns to go against the recursion written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qseq.episodes import returns, returns_to_go
from qseq.errors import RequestError


def slow(rewards: np.ndarray, lengths: list[int], discount: float, final: np.ndarray) -> np.ndarray:
    result, first = [], 0
    for length, value in zip(lengths, final, strict=True):
        backwards = []
        for reward in rewards[first : first + length][::-1]:
            value = reward + discount * value
            backwards.append(value)
        result += backwards[::-1]
        first += length
    return np.array(result)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.floats(0, 1), st.integers(1, 40), st.integers(0, 99))
def test_against_the_recursion(lengths: list[int], discount: float, segment: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rewards = rng.normal(size=sum(lengths)).astype(np.float32)
    final = rng.normal(size=len(lengths))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(returns, "_LONG", segment)  # long episodes are cut into segments
        found = returns_to_go(rewards, np.array(lengths), discount, final_values=final)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, slow(rewards.astype(float), lengths, discount, final), rtol=1e-5, atol=1e-5)


def test_long_and_discounted_stays_finite() -> None:
    rewards = np.ones(100_000, np.float32)
    found = returns_to_go(rewards, np.array([100_000]), 0.5)
    np.testing.assert_allclose(found[:-60], 2.0)
    assert found[-1] == 1.0
    assert returns_to_go(rewards, np.array([100_000]), 1.0)[0] == 100_000


def test_refused() -> None:
    with pytest.raises(RequestError, match=r"discount: found 1\.5"):
        returns_to_go(np.ones(3), np.array([3]), 1.5)
    with pytest.raises(RequestError, match="sum of 2, expected 3"):
        returns_to_go(np.ones(3), np.array([2]), 1.0)
