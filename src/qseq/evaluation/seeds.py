"""Seeds of episodes: pure functions of (seed, index), so that order and number of environments do not matter."""

from __future__ import annotations

import numpy as np


def episode_seed(seed: int, index: int) -> int:
    """What episode `index` is reset with: a non-negative integer below 2^31."""
    return int(np.random.default_rng([seed, index, 0]).integers(2**31))


def actor_rng(seed: int, index: int) -> np.random.Generator:
    """The source of a scripted or random actor's choices in episode `index`."""
    return np.random.default_rng([seed, index, 1])


def policy_seed(seed: int, index: int) -> int:
    """What a policy's own random choices are seeded with where episodes are run one by one."""
    return int(np.random.default_rng([seed, index, 2]).integers(2**31))


def call_seed(seed: int, call: int) -> int:
    """The seed of the `call`-th collection of one agent, so that no two of them meet the same episodes."""
    return int(np.random.default_rng([seed, call, 3]).integers(2**31))
