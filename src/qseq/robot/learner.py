"""`QLearner`: Q-learning of a model you built, on data you have, in one call."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qseq.actions import ChunkTokens, make_tokenizer
from qseq.episodes import EpisodeStore, EpisodeView, Windows, WindowSpec
from qseq.errors import RequestError
from qseq.policies import TokenPolicySpec, write_description
from qseq.policies.preparation import instruction_inputs, needs_instruction, only_instruction
from qseq.robot.model import QRoboticTransformer
from qseq.robot.objective import make_objective
from qseq.robot.objective_config import QObjectiveConfig
from qseq.robot.policy import QTransformerPolicy
from qseq.training import Trainer, TrainingConfig, load_weights


class QLearner:
    """Trains a `QRoboticTransformer` on logged episodes; calling it trains.

    Args:
        model: its tokens must fit the data's action space: A = dimensions, or h x A for chunks of h steps.
        dataset: a store, a view of several, or the path of a store.
        num_train_steps: optimiser steps. grad_accum_every: batches in each.
        min_reward: least possible return; the conservative regulariser pulls to it.
        monte_carlo_return: whether targets are at least the return achieved; None means yes.
        n_step_q_learning: bootstrap after `num_timesteps` steps rather than 1.
        q_target_ema_kwargs: `beta` (share of the old target kept), `update_after_step`, `update_every`.
        checkpoint_folder: the run folder; a temporary one if not given. checkpoint_every: steps.
        objective: the whole objective, in place of the arguments about it.
        training_kwargs: further fields of `TrainingConfig`.

    Raises:
        RequestError: the model does not fit the data.
    """

    def __init__(
        self,
        model: QRoboticTransformer,
        *,
        dataset: EpisodeStore | EpisodeView | str | Path,
        batch_size: int = 256,
        num_train_steps: int = 3000,
        learning_rate: float = 3e-4,
        min_reward: float = 0.0,
        grad_accum_every: int = 1,
        monte_carlo_return: bool | None = None,
        weight_decay: float = 0.0,
        q_target_ema_kwargs: Mapping[str, Any] | None = None,
        max_grad_norm: float = 0.5,
        n_step_q_learning: bool = False,
        num_timesteps: int = 10,
        discount_factor_gamma: float = 0.98,
        conservative_reg_loss_weight: float = 1.0,
        checkpoint_folder: str | Path | None = None,
        checkpoint_every: int = 1000,
        seed: int = 0,
        accelerator: Any = None,
        objective: QObjectiveConfig | None = None,
        training_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        view = _as_view(dataset)
        tokenizer = _fitting_tokenizer(model, view)
        steps = tokenizer.steps if isinstance(tokenizer, ChunkTokens) else num_timesteps if n_step_q_learning else 1
        if objective is None:
            objective = QObjectiveConfig(
                discount=discount_factor_gamma,
                bootstrap_steps=(steps,),
                monte_carlo_bound=monte_carlo_return is not False,
                conservative_weight=conservative_reg_loss_weight,
                value_low=min_reward,
                value_high=max(1.0, min_reward + 1.0),
            )
        average = {"beta": 0.99, "update_after_step": 10, "update_every": 5} | dict(q_target_ema_kwargs or {})
        training = TrainingConfig(
            steps=num_train_steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            max_grad_norm=max_grad_norm,
            grad_accum_every=grad_accum_every,
            target_rate=1.0 - average["beta"],
            target_start=average["update_after_step"],
            target_every=average["update_every"],
            checkpoint_every=checkpoint_every,
            **dict(training_kwargs or {}),
        )
        spec = WindowSpec(history=model.encoder.history, bootstrap_steps=objective.bootstrap_steps)
        self._temporary = checkpoint_folder is None
        self.run = Path(checkpoint_folder or tempfile.mkdtemp(prefix="qseq-"))
        self.policy_spec = TokenPolicySpec(
            network=model.config,
            fields=dict(model.field_shapes),
            history=model.encoder.history,
            tokenizer=tokenizer,
            action_space=view.action_space,
            extra={
                "value": objective.value_arguments(),
                "initial_value": objective.initial_value,
                "value_folds": len(model.folded_value.folds),
            },
            default_instruction=only_instruction(view),
            needs_instruction=needs_instruction(view, model.config),
        )
        self.trainer = Trainer(
            make_objective(objective, tokenizer, spec, instruction_inputs(view, model.config), model.config.head),
            model,
            Windows(
                view,
                spec,
                batch_size=batch_size,
                seed=seed,
                discount=objective.discount,
                min_return=objective.value_low,
            ),
            training,
            run=self.run,
            seed=seed,
            save_model=lambda _, folder: write_description(QTransformerPolicy.kind, self.policy_spec, folder),
            accelerator=accelerator,
        )

    def __call__(self, resume: bool = False) -> Path | None:
        """Train; returns the final checkpoint (None without `checkpoint_folder`)."""
        try:
            checkpoint = self.trainer.train(resume=resume)
        finally:
            if self._temporary:
                shutil.rmtree(self.run, ignore_errors=True)
        return None if self._temporary else checkpoint

    @property
    def policy(self) -> QTransformerPolicy:
        """The policy of the model as it is now."""
        return QTransformerPolicy(self.model, self.policy_spec)

    def save(self, folder: str | Path) -> None:
        """Write the policy's folder: description and weights."""
        self.policy.save_pretrained(folder)

    def load(self, folder: str | Path) -> None:
        """Read weights written by `save`. Raises DataError if they do not fit."""
        load_weights(self.model, Path(folder) / "model.safetensors")


def _as_view(dataset: EpisodeStore | EpisodeView | str | Path) -> EpisodeView:
    if isinstance(dataset, EpisodeView):
        return dataset
    return EpisodeView(dataset if isinstance(dataset, EpisodeStore) else EpisodeStore.open(Path(dataset)))


def _fitting_tokenizer(model: QRoboticTransformer, view: EpisodeView) -> Any:
    samples = view.action_samples(100_000) if view.action_space["type"] == "box" else None
    single = make_tokenizer(view.action_space, num_bins=model.decoder.num_bins, samples=samples)
    chunk, rest = divmod(model.num_actions, single.num_tokens)
    if rest or chunk < 1 or single.num_bins != model.decoder.num_bins:
        raise RequestError(
            f"model: found {model.num_actions} actions of {model.decoder.num_bins} bins, expected "
            f"num_actions = {single.num_tokens} (or a multiple, for chunks) and action_bins = {single.num_bins} "
            f"for the action space of type {view.action_space['type']}"
        )
    for name, shape in model.field_shapes.items():
        found = tuple(view.fields[name].shape) if name in view.fields else None
        if found != shape:
            raise RequestError(f"data: field '{name}' has shape {found}, expected {shape} as the model reads it")
    return make_tokenizer(view.action_space, num_bins=model.decoder.num_bins, samples=samples, chunk=chunk)
