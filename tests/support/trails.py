"""Episodes of a small decision process that hold exact expectations: no sampling error to allow for.

Legend: S states, A action dimensions, C actions, O outcomes, T steps of an episode.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np

from qseq.episodes import Episode, EpisodeStore, EpisodeView, StoreWriter

from .mdp import DISCOUNT, Floats, Integers, Mdp


def trail_episodes(mdp: Mdp, seed: int, max_steps: int = 12) -> list[Episode]:
    """Random walks from random starts in which each (state, action, outcome) occurs exactly once in all.

    A walk ends in a terminal state (terminated), at the time limit, or where nothing is left to try (truncated).
    """
    random = np.random.default_rng(seed)
    edges = list(itertools.product(range(mdp.num_actions), range(mdp.num_outcomes)))
    left = [
        [] if mdp.terminal[s] else [edges[i] for i in random.permutation(len(edges))] for s in range(mdp.num_states)
    ]
    episodes = []
    while starts := [state for state in range(mdp.num_states) if left[state]]:
        states, actions, outcomes = [int(random.choice(starts))], [], []
        while left[states[-1]] and len(actions) < max_steps:
            action, outcome = left[states[-1]].pop()
            actions.append(action)
            outcomes.append(outcome)
            states.append(int(mdp.next_states[states[-1], action, outcome]))
        episodes.append(_episode(mdp, states, actions, outcomes))
    return episodes


def path_episodes(mdp: Mdp, num_steps: int, behaviour: Integers) -> list[Episode]:
    """Every path of `num_steps` steps: any first action, then each of the actions `behaviour` [S, choices] in turn.

    The windows at step 0 hold the exact expectation of n-step returns under the policy uniform over these choices.
    """
    episodes = []
    for start in np.flatnonzero(~mdp.terminal):
        for first in range(mdp.num_actions):
            choices = [range(mdp.num_outcomes), *[range(behaviour.shape[1]), range(mdp.num_outcomes)] * (num_steps - 1)]
            for picks in itertools.product(*choices):
                states, actions, outcomes = [int(start)], [], []
                for step in range(num_steps):
                    if mdp.terminal[states[-1]]:
                        break
                    actions.append(int(behaviour[states[-1], picks[2 * step - 1]]) if step else first)
                    outcomes.append(picks[2 * step])
                    states.append(int(mdp.next_states[states[-1], actions[-1], outcomes[-1]]))
                episodes.append(_episode(mdp, states, actions, outcomes))
    return episodes


def stored(episodes: list[Episode], mdp: Mdp, folder: Path) -> EpisodeView:
    """The episodes, written to a real store and read back."""
    with StoreWriter(folder, action_space=dict(mdp.action_space)) as writer:
        writer.extend(episodes)
    return EpisodeView(EpisodeStore.open(folder))


def empirical_n_step_q(episodes: list[Episode], mdp: Mdp, num_steps: int, discount: float = DISCOUNT) -> Floats:
    """Fixed point [S, C] of n-step backups averaged over the data themselves, ends of episodes included.

    Computed from the raw episodes, step by step; it shares no code with the windows and the returns of the library.
    """
    cells, returns, discounts, reached = [], [], [], []
    for episode in episodes:
        states = episode.observations["state"].argmax(axis=1)
        actions = np.ravel_multi_index(tuple(episode.actions.T), (mdp.num_bins,) * mdp.num_dimensions)
        length = len(actions)
        for step in range(length):
            end = min(step + num_steps, length)
            cells.append(states[step] * mdp.num_actions + actions[step])
            returns.append(sum(discount**i * float(reward) for i, reward in enumerate(episode.rewards[step:end])))
            discounts.append(0.0 if end == length and episode.terminated else discount ** (end - step))
            reached.append(states[end])
    size = mdp.num_states * mdp.num_actions
    counts = np.maximum(np.bincount(cells, minlength=size), 1)
    q = np.zeros((mdp.num_states, mdp.num_actions))
    while True:
        targets = np.array(returns) + np.array(discounts) * q.max(axis=1)[reached]
        updated = (np.bincount(cells, targets, minlength=size) / counts).reshape(q.shape)
        if np.abs(updated - q).max() < 1e-9:
            return updated
        q = updated


def _episode(mdp: Mdp, states: list[int], actions: list[int], outcomes: list[int]) -> Episode:
    terminated = bool(mdp.terminal[states[-1]])
    return Episode(
        observations={"state": np.eye(mdp.num_states, dtype=np.float32)[states]},
        actions=mdp.tokens(np.array(actions)),
        rewards=mdp.rewards[states[:-1], actions, outcomes].astype(np.float32),
        terminated=terminated,
        truncated=not terminated,
    )
