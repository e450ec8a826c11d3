"""A world small enough to learn in seconds: one step, two action dimensions, the reward tells which corner is good.

Legend: B episodes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qseq.episodes import Episode, EpisodeStore, EpisodeView, StoreWriter

ACTION_SPACE = {"type": "box", "low": [-1.0, -1.0], "high": [1.0, 1.0], "shape": [2], "dtype": "float32"}
DISCRETE_SPACE = {"type": "discrete", "n": 3, "start": 1}


def corner_episodes(count: int, *, flipped: bool = False, seed: int = 0) -> list[Episode]:
    """Random actions; reward 1 where the action lies in the corner that the state's sign names (the other if flipped).

    The second dimension counts only through the first: the good corner is (sign, -sign).
    """
    random = np.random.default_rng(seed)
    episodes = []
    for _ in range(count):
        sign = random.choice([-1.0, 1.0])
        state = np.array([[sign, random.normal()]], np.float32)
        action = random.uniform(-1, 1, (1, 2)).astype(np.float32)
        good = np.sign(action[0, 0]) == sign and np.sign(action[0, 1]) == -sign
        success = bool(good != flipped)
        episodes.append(
            Episode(
                observations={"state": np.concatenate([state, state])},
                actions=action,
                rewards=np.array([float(success)], np.float32),
                terminated=True,
                truncated=False,
                success=success,
                instruction="touch the corner",
            )
        )
    return episodes


def write_view(folder: Path, episodes: list[Episode], action_space: dict[str, object] = ACTION_SPACE) -> EpisodeView:
    with StoreWriter(folder, action_space=action_space) as writer:
        for episode in episodes:
            writer.add(episode)
    return EpisodeView(EpisodeStore.open(folder))
