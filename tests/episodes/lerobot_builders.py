"""Stores with cameras for the tests of LeRobot data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes import Episode, EpisodeStore, StoreWriter

from .builders import BOX, make_episode

NAMES = {"state": ["x", "y", "z"], "action": ["dx", "dy"]}


def camera_episode(steps: int, seed: int, **changes: Any) -> Episode:
    """Smooth moving pictures of 48 x 64 with channels first, and numbers of every shape and kind."""
    times = np.arange(steps + 1)
    ramp = (np.arange(48)[:, None] + np.arange(64)) % 160
    picture = (ramp[None, None] + 3 * times[:, None, None, None] + 20 * np.arange(3)[:, None, None]).astype(np.uint8)
    observations = {
        **make_episode(steps, seed).observations,
        "camera/front": picture,
        "grid": np.random.default_rng(seed).normal(size=(steps + 1, 2, 3)).astype(np.float32),
        "count": times,
        "flag": times % 2 == 0,
        "height": np.full(steps + 1, seed, np.float32),
    }
    return make_episode(steps, seed, **({"observations": observations} | changes))


def make_camera_store(path: Path, episodes: int, **changes: Any) -> EpisodeStore:
    env = {"id": "Push-v0", "kwargs": {"size": 3}}
    with StoreWriter(path, action_space=BOX, env=env, dimension_names=NAMES) as writer:
        writer.extend(camera_episode(2 + index % 5, index, **changes) for index in range(episodes))
    return EpisodeStore.open(path)
