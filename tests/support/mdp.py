"""Small random decision processes with many-dimensional actions, and their exact solution by dynamic programming.

Legend: S states, A action dimensions, K bins of a dimension, C = K^A actions (row-major in the dimensions), O outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

DISCOUNT = 0.95


@dataclass(frozen=True)
class Mdp:
    """Every action in every state has O equally likely outcomes, a next state and a reward each.

    Equally likely outcomes let a finite data set hold exact expectations: each outcome once.
    """

    num_dimensions: int
    num_bins: int
    next_states: Integers  # [S, C, O]
    rewards: Floats  # [S, C, O]
    terminal: NDArray[np.bool_]  # [S]

    @property
    def num_states(self) -> int:
        return len(self.terminal)

    @property
    def num_actions(self) -> int:
        return self.next_states.shape[1]

    @property
    def num_outcomes(self) -> int:
        return self.next_states.shape[2]

    @property
    def action_space(self) -> dict[str, object]:
        return {
            "type": "multi_discrete",
            "nvec": [self.num_bins] * self.num_dimensions,
            "start": [0] * self.num_dimensions,
        }

    def tokens(self, actions: Integers) -> Integers:
        """Actions [...] to their bins [..., A]."""
        return np.stack(np.unravel_index(actions, (self.num_bins,) * self.num_dimensions), axis=-1).astype(np.int64)

    def with_rewards(self, rewards: Floats) -> Mdp:
        return replace(self, rewards=rewards)


def random_mdp(
    seed: int,
    *,
    num_states: int | None = None,
    num_dimensions: int = 3,
    num_bins: int = 4,
    num_outcomes: int = 4,
    discount: float = DISCOUNT,
) -> Mdp:
    """6 to 10 states, one or two of them terminal; optimal values lie in [0, 1]. One outcome makes it deterministic."""
    random = np.random.default_rng(seed)
    num_states = num_states or int(random.integers(6, 11))
    terminal = np.zeros(num_states, bool)
    terminal[: int(random.integers(1, 3))] = True
    shape = (num_states, num_bins**num_dimensions, num_outcomes)
    # Actions prefer some successors to others, so that the outcomes of an action are alike and its value is its own.
    likely = random.integers(num_states, size=(*shape[:2], 2))
    next_states = np.take_along_axis(likely, random.integers(2, size=shape), axis=2)
    rewards = random.random(shape) * (random.random(shape) < 0.3)
    mdp = Mdp(num_dimensions, num_bins, next_states, rewards, terminal)
    return mdp.with_rewards(rewards * 0.95 / optimal_q(mdp, discount).max())


def lottery(num_dimensions: int) -> Mdp:
    """A start (state 2) that leads to a draw (state 3) that wins 1 in one case of four, whatever is done.

    States 0 and 1 are the terminal states of a win and of a loss.
    """
    shape = (4, 2**num_dimensions, 4)
    next_states, rewards = np.zeros(shape, np.int64), np.zeros(shape)
    next_states[2] = 3
    next_states[3] = [0, 1, 1, 1]
    rewards[3, :, 0] = 1.0
    return Mdp(num_dimensions, 2, next_states, rewards, np.array([True, True, False, False]))


def optimal_q(mdp: Mdp, discount: float = DISCOUNT) -> Floats:
    """Q* [S, C] by value iteration; 0 in terminal states."""
    return n_step_q(mdp, 1, np.zeros((mdp.num_states, mdp.num_actions)), discount)


def n_step_q(mdp: Mdp, num_steps: int, behaviour: Floats, discount: float = DISCOUNT) -> Floats:
    """Fixed point [S, C] of the n-step operator without correction: first action a, then n - 1 steps of the behaviour
    policy [S, C], then the best action. It is below Q* unless n = 1 or the behaviour is optimal."""
    q = np.zeros((mdp.num_states, mdp.num_actions))
    while True:
        values = q.max(axis=1)
        for _ in range(num_steps - 1):
            values = (behaviour * one_step(mdp, values, discount)).sum(axis=1)
        updated = one_step(mdp, values, discount)
        if np.abs(updated - q).max() < 1e-9:
            return updated
        q = updated


def one_step(mdp: Mdp, values: Floats, discount: float) -> Floats:
    """Expected reward and discounted value [S] of what follows: [S, C]."""
    expected = (mdp.rewards + discount * values[mdp.next_states]).mean(axis=2)
    return np.where(mdp.terminal[:, None], 0.0, expected)


def chunk_q(mdp: Mdp, steps: int, discount: float = DISCOUNT) -> Floats:
    """Q of every sequence of `steps` actions in a deterministic process: [S, C^steps].

    When the process ends before the sequence does, the actions left over make no difference.
    """
    assert mdp.num_outcomes == 1, "open-loop sequences are optimal in deterministic processes only"
    q = optimal_q(mdp, discount)
    for _ in range(steps - 1):
        following = q[mdp.next_states[:, :, 0]]  # [S, C, C^(steps - 1)]
        q = mdp.rewards + discount * following
        q = np.where(mdp.terminal[:, None, None], 0.0, q).reshape(mdp.num_states, -1)
    return q


def prefix_q(q: Floats, num_tokens: int, num_bins: int) -> list[Floats]:
    """Q of every prefix, from `q` [S, K^tokens]: entry j is [S, K^j, K], the best that can follow j + 1 tokens."""
    return [q.reshape(len(q), num_bins**j, num_bins, -1).max(axis=3) for j in range(num_tokens)]
