"""Small data and small planners for the tests: no simulator, seconds of training.

Legend: T steps, S entries of a state.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from qseq.configuration import load_config
from qseq.episodes import Episode, EpisodeStore, EpisodeView, StoreWriter
from qseq.planner import DiffuserConfig, DiffuserPolicy
from qseq.planner.algorithm import fit_normalisers, make_spec
from qseq.planner.spec import PlannerNetwork

ACTION_SPACE = {"type": "box", "low": [-1.0, -1.0], "high": [1.0, 1.0], "shape": [2], "dtype": "float32"}
SMALL = ("denoiser.dim=16", "denoiser.depth=1", "denoiser.heads=2", "value.dim=16", "value.plan_dim=16",
         "diffusion.noise_steps=10", "planning.candidates=4", "planning.steps=3", "trajectory.horizon=4",
         "training.batch_size=8", "training.steps=3", "training.threads=1", "training.trackers=[]")  # fmt: skip
STATES = ("trajectory.stride=2", "data.goal_field=goal", "data.state_field=state", "data.goal_radius=0.3")
JOINT = ("trajectory.stride=1", "trajectory.contents=states-actions", "value.guide=true", "data.state_field=state")


def walk(length: int, seed: int, *, reward: float = 0.0, terminated: bool = False) -> Episode:
    """A point that is moved by its actions; the state is its place and its last step: [T + 1, 4]."""
    random = np.random.default_rng(seed)
    actions = random.uniform(-1, 1, (length, 2)).astype(np.float32)
    moves = 0.2 * actions
    places = random.normal(size=2) + np.concatenate([np.zeros((1, 2)), np.cumsum(moves, axis=0)])
    speeds = np.concatenate([np.zeros((1, 2)), moves])
    states = np.concatenate([places, speeds], axis=1).astype(np.float32)
    goals = np.repeat(random.normal(size=(1, 2)), length + 1, axis=0).astype(np.float32)
    return Episode(
        observations={"state": states, "goal": goals},
        actions=actions,
        rewards=np.full(length, reward, np.float32),
        terminated=terminated,
        truncated=not terminated,
        success=None,
    )


def write_view(folder: Path, episodes: list[Episode], space: dict[str, Any] | None = None) -> EpisodeView:
    with StoreWriter(folder, action_space=space or ACTION_SPACE) as writer:
        for episode in episodes:
            writer.add(episode)
    return EpisodeView(EpisodeStore.open(folder))


def walks(folder: Path, lengths: tuple[int, ...] = (12, 9, 15, 20), **options: Any) -> EpisodeView:
    return write_view(folder, [walk(length, seed, **options) for seed, length in enumerate(lengths)])


def config_of(*overrides: str) -> DiffuserConfig:
    return load_config(DiffuserConfig, overrides=[*SMALL, *overrides])


def policy_of(view: EpisodeView, *overrides: str, **options: Any) -> DiffuserPolicy:
    """An untrained policy, with weights that are not zero anywhere."""
    config = config_of(*overrides)
    spec = make_spec(config, view)
    torch.manual_seed(0)
    network = PlannerNetwork(spec, *fit_normalisers(spec, view, 0))
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return DiffuserPolicy(network, spec, **options)
