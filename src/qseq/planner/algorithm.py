"""The planner as an algorithm the command line can train."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from qseq.episodes import EpisodeView
from qseq.errors import ConfigError, RequestError
from qseq.planner.batches import PlanBatches
from qseq.planner.config import DiffuserConfig
from qseq.planner.normalisers import Normaliser
from qseq.planner.objective import PlannerObjective
from qseq.planner.policy import DiffuserPolicy, write_planner
from qseq.planner.spec import PlannerNetwork, PlannerSpec
from qseq.policies.preparation import DataConfig, open_view
from qseq.training import Trainer

_SAMPLES = 200_000


def make_trainer(config: DiffuserConfig, view: EpisodeView, *, run: Path, seed: int) -> Trainer:
    """Everything that training needs, put together.

    Raises:
        ConfigError: options that do not go together.
        RequestError: a field that the data do not have, a horizon that the network cannot take, actions that are not
            continuous.
        DataError: no episode holds two planned states.
    """
    spec = make_spec(config, view)
    batches = PlanBatches(view, spec, batch_size=config.training.batch_size, seed=seed)
    spec = replace(spec, counts=batches.counts)
    torch.manual_seed(seed)
    network = PlannerNetwork(spec, *fit_normalisers(spec, view, seed))
    network.denoiser.require_horizon(spec.trajectory.horizon)
    data = replace(config.data, state_field=spec.data.state_field)
    return Trainer(
        PlannerObjective(spec),
        network,
        batches,
        config.training,
        run=run,
        seed=seed,
        save_model=lambda _, folder: write_planner(DiffuserPolicy.kind, spec, folder),
        run_config=replace(config, data=data),
    )


def make_spec(config: DiffuserConfig, view: EpisodeView) -> PlannerSpec:
    """What the planner will be, as far as the data decide it. Errors as of `make_trainer`."""
    if view.action_space["type"] != "box":
        raise RequestError(
            f"data: found actions of type '{view.action_space['type']}', expected a box: plans are smooth"
        )
    if config.trajectory.contents == "states-actions" and config.trajectory.stride != 1:
        raise ConfigError(
            f"trajectory.stride: found {config.trajectory.stride}, expected 1 with trajectory.contents=states-actions: "
            "actions between two planned states would be missing; plan states instead"
        )
    if config.planning.selection == "critic" and config.data.goal_field and not config.value.critic:
        raise ConfigError("planning.selection: found critic, expected endpoint, or value.critic=true to learn one")
    if config.planning.guidance_scale and not config.value.guide:
        raise ConfigError(
            f"planning.guidance_scale: found {config.planning.guidance_scale}, expected 0, or value.guide=true"
        )
    state_field = _state_field(config, view)
    for name in (state_field, config.data.goal_field or state_field):
        if name not in view.fields:
            raise RequestError(f"data: found no field '{name}', expected one of {', '.join(sorted(view.fields))}")
        if len(view.fields[name].shape) != 1:
            raise RequestError(f"data: field '{name}' has shape {list(view.fields[name].shape)}, expected a vector")
    state_size = view.fields[state_field].shape[0]
    goals = config.data.goal_dimensions if config.data.goal_field else ()
    if goals and (max(goals) >= state_size or len(goals) != view.fields[config.data.goal_field].shape[0]):
        raise ConfigError(
            f"data.goal_dimensions: found {list(goals)}, expected {view.fields[config.data.goal_field].shape[0]} of "
            f"the {state_size} entries of '{state_field}'"
        )
    low, high = (), ()
    if goals:
        reached = view.sample(state_field, _SAMPLES)[:, list(goals)]
        low, high = (tuple(float(n) for n in edge) for edge in (reached.min(0), reached.max(0)))  # type: ignore[assignment]
    return PlannerSpec(
        data=replace(config.data, state_field=state_field),
        trajectory=config.trajectory,
        denoiser=config.denoiser,
        diffusion=config.diffusion,
        value=config.value,
        planning=config.planning,
        state_size=state_size,
        action_size=int(np.prod(view.action_space["shape"], dtype=np.int64)),
        action_space=view.action_space,
        goal_low=low,
        goal_high=high,
        return_scale=1.0 if goals else max(float(view.returns_to_go(config.value.discount).std()), 1e-6),
    )


def fit_normalisers(spec: PlannerSpec, view: EpisodeView, seed: int) -> tuple[Normaliser, Normaliser]:
    """Of states and of actions."""
    states = torch.from_numpy(view.sample(spec.data.state_field, _SAMPLES, seed).astype(np.float64))
    actions = torch.from_numpy(view.action_samples(_SAMPLES, seed).astype(np.float64)).flatten(1)
    return (
        Normaliser.fit(states, spec.data.state_normaliser),
        Normaliser.fit(actions, spec.data.action_normaliser),
    )


def train(config: DiffuserConfig, *, data: Sequence[str], run: Path, seed: int = 0, resume: bool = False) -> Path:
    """Train into the run folder; returns the final checkpoint."""
    chosen = config.data
    reading = DataConfig(
        verify=chosen.verify,
        limit_episodes=chosen.limit_episodes,
        successes_only=chosen.successes_only,
        success_share=chosen.success_share,
        relabel=chosen.relabel,
    )
    return make_trainer(config, open_view(data, reading), run=run, seed=seed).train(resume=resume)


def _state_field(config: DiffuserConfig, view: EpisodeView) -> str:
    if config.data.state_field:
        return config.data.state_field
    candidates = [name for name in view.fields if name != config.data.goal_field]
    if len(candidates) == 1:
        return candidates[0]
    for name in ("observation", "state"):
        if name in candidates:
            return name
    raise RequestError(
        f"data.state_field: not given, and the data have several fields; expected one of {', '.join(candidates)}"
    )
