"""`QLearner`: Q-learning of a model you built, on data you have, in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qseq.actions import ActionTokenizer, ChunkTokens
from qseq.configuration import checked
from qseq.episodes import EpisodeStore, EpisodeView, ReplayMemoryDataset, Windows, WindowSpec
from qseq.errors import RequestError
from qseq.policies import write_description
from qseq.policies.preparation import instruction_inputs, needs_instruction, only_instruction
from qseq.robot.checks import check_mismatched, check_same_value, check_value_range
from qseq.robot.description import describe_model, fitting_tokenizer, value_arguments
from qseq.robot.model import QRoboticTransformer
from qseq.robot.objective import make_objective
from qseq.robot.objective_config import QObjectiveConfig
from qseq.robot.policy import QTransformerPolicy
from qseq.training import Trainer, load_weights, make_accelerator
from qseq.training.keywords import (
    ACCELERATOR,
    AVERAGE,
    DATALOADER,
    OPTIMISER,
    checked_keywords,
    of_the_accelerator,
    train_in,
    training_config,
)

_STEPS = 10


class QLearner:
    """Trains a `QRoboticTransformer` on logged episodes; calling it trains.

    The number of actions and of steps says which Q-learning it is: several dimensions (autoregressive, 1 or n steps)
    or a single action (1 or n steps); it is the same backup.

    Args:
        model: its tokens must fit the data's action space: A = dimensions, or h x A for chunks of h steps.
        dataset: a `ReplayMemoryDataset`, a store, a view of several, or the path of a store.
        num_train_steps: optimiser steps. grad_accum_every: batches in each.
        min_reward: least possible return, to which the conservative regulariser pulls; of a model whose values are
            bounded it must be their least one.
        monte_carlo_return: whether targets are at least the return that was achieved from that step on; None means yes.
        n_step_q_learning: bootstrap after `num_timesteps` steps (those of a `ReplayMemoryDataset`, else 10) rather
            than 1.
        accelerator: accelerate's, or made with accelerator_kwargs: `cpu`, `mixed_precision` ("no", "bf16"),
            `kwargs_handlers`, `log_with`.
        dataloader_kwargs: `shuffle`.
        optimizer_kwargs: `betas`, `eps`.
        q_target_ema_kwargs: `beta` (share of the old target kept), `update_after_step`, `update_every`.
        checkpoint_folder: the run folder; a temporary one if not given. checkpoint_every: steps.
        objective: the whole objective, in place of the arguments about it.
        training_kwargs: further fields of `TrainingConfig`.

    Raises:
        RequestError: the model does not fit the data, or an argument or key is not valid.
    """

    def __init__(
        self,
        model: QRoboticTransformer,
        *,
        dataset: ReplayMemoryDataset | EpisodeStore | EpisodeView | str | Path,
        batch_size: int = 256,
        num_train_steps: int = 3000,
        learning_rate: float = 3e-4,
        min_reward: float = 0.0,
        grad_accum_every: int = 1,
        monte_carlo_return: bool | None = None,
        weight_decay: float = 0.0,
        accelerator: Any = None,
        accelerator_kwargs: Mapping[str, Any] | None = None,
        dataloader_kwargs: Mapping[str, Any] | None = None,
        q_target_ema_kwargs: Mapping[str, Any] | None = None,
        max_grad_norm: float = 0.5,
        n_step_q_learning: bool = False,
        num_timesteps: int | None = None,
        discount_factor_gamma: float = 0.98,
        conservative_reg_loss_weight: float = 1.0,
        optimizer_kwargs: Mapping[str, Any] | None = None,
        checkpoint_folder: str | Path | None = None,
        checkpoint_every: int = 1000,
        seed: int = 0,
        objective: QObjectiveConfig | None = None,
        training_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        self.model = model
        view = _as_view(dataset)
        tokenizer = _fitting(model, view)
        about_objective = {
            "min_reward": (min_reward, 0.0),
            "monte_carlo_return": (monte_carlo_return, None),
            "n_step_q_learning": (n_step_q_learning, False),
            "num_timesteps": (num_timesteps, None),
            "discount_factor_gamma": (discount_factor_gamma, 0.98),
            "conservative_reg_loss_weight": (conservative_reg_loss_weight, 1.0),
        }
        if objective is None:
            objective = _objective(
                model,
                min_reward=min_reward,
                monte_carlo_return=monte_carlo_return,
                horizon=_horizon(tokenizer, dataset, n_step_q_learning, num_timesteps),
                discount=discount_factor_gamma,
                conservative_weight=conservative_reg_loss_weight,
            )
        else:
            for name, (found, default) in about_objective.items():
                if found != default:
                    raise RequestError(f"{name}: found {found!r} beside an objective, which says this itself")
            checked(objective)
        if objective.matching_steps:
            raise RequestError(
                f"objective.matching_steps: found {objective.matching_steps}, expected 0: a QLearner shows all steps "
                "from the start; train with `qseq train`"
            )
        check_mismatched(objective, view, model.config.text)
        check_same_value(objective, model.state_value)
        check_value_range(
            objective, view, "build the model with values=BoundedValue(low, high) or UnboundedValue(), or scale rewards"
        )
        accelerate = checked_keywords("accelerator_kwargs", accelerator_kwargs, ACCELERATOR)
        if accelerator is not None and accelerate:
            raise RequestError("accelerator_kwargs: found an accelerator, too, which is made already; give one of them")
        loading = {"shuffle": True} | checked_keywords("dataloader_kwargs", dataloader_kwargs, DATALOADER)
        if not isinstance(loading["shuffle"], bool):
            raise RequestError(f"dataloader_kwargs: found shuffle={loading['shuffle']!r}, expected True or False")
        average = {"beta": 0.99, "target_start": 10, "target_every": 5}
        average |= checked_keywords("q_target_ema_kwargs", q_target_ema_kwargs, AVERAGE)
        training = training_config(
            {
                **checked_keywords("optimizer_kwargs", optimizer_kwargs, OPTIMISER),
                "steps": num_train_steps,
                "batch_size": batch_size,
                "learning_rate": learning_rate,
                "weight_decay": weight_decay,
                "max_grad_norm": max_grad_norm,
                "grad_accum_every": grad_accum_every,
                "checkpoint_every": checkpoint_every,
            },
            average=average,
            accelerate=accelerate,
            further=training_kwargs,
        )
        spec = WindowSpec(history=model.encoder.history, bootstrap_steps=objective.bootstrap_steps)
        self._temporary = checkpoint_folder is None
        self.run = Path(checkpoint_folder or tempfile.mkdtemp(prefix="qseq-"))
        self.policy_spec = describe_model(
            model,
            view.action_space,
            tokenizer,
            value=objective.value_arguments(),
            initial_value=objective.initial_value,
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
                shuffle=loading["shuffle"],
            ),
            training,
            run=self.run,
            seed=seed,
            save_model=lambda _, folder: write_description(QTransformerPolicy.kind, self.policy_spec, folder),
            accelerator=accelerator or make_accelerator(**of_the_accelerator(accelerate)),
        )

    def __call__(self, resume: bool = False) -> Path | None:
        """Train; returns the final checkpoint (None without `checkpoint_folder`)."""
        return train_in(self.run, self.trainer, temporary=self._temporary, resume=resume)

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


def _as_view(dataset: ReplayMemoryDataset | EpisodeStore | EpisodeView | str | Path) -> EpisodeView:
    if isinstance(dataset, EpisodeView):
        return dataset
    if isinstance(dataset, ReplayMemoryDataset):
        return dataset.view
    return EpisodeView(dataset if isinstance(dataset, EpisodeStore) else EpisodeStore.open(Path(dataset)))


def _fitting(model: QRoboticTransformer, view: EpisodeView) -> ActionTokenizer:
    samples = view.action_samples(100_000) if view.action_space["type"] == "box" else None
    tokenizer = fitting_tokenizer(model, view.action_space, samples)
    for name, shape in model.field_shapes.items():
        found = tuple(view.fields[name].shape) if name in view.fields else None
        if found != shape:
            raise RequestError(f"data: field '{name}' has shape {found}, expected {shape} as the model reads it")
    return tokenizer


def _horizon(tokenizer: ActionTokenizer, dataset: Any, n_step: bool, num_timesteps: int | None) -> int:
    """Steps after which is bootstrapped."""
    if num_timesteps is not None and not n_step:
        raise RequestError(f"num_timesteps: found {num_timesteps}, which counts with n_step_q_learning=True only")
    if isinstance(tokenizer, ChunkTokens):
        if num_timesteps not in (None, tokenizer.steps):
            raise RequestError(f"num_timesteps: found {num_timesteps}, expected {tokenizer.steps}, the model's chunk")
        return tokenizer.steps
    if not n_step:
        return 1
    if num_timesteps is None:
        num_timesteps = dataset.num_timesteps if isinstance(dataset, ReplayMemoryDataset) else _STEPS
    if num_timesteps < 2:
        raise RequestError(
            f"n_step_q_learning: found {num_timesteps} step, expected more; give num_timesteps here or to the dataset"
        )
    return num_timesteps


def _objective(
    model: QRoboticTransformer,
    *,
    min_reward: float,
    monte_carlo_return: bool | None,
    horizon: int,
    discount: float,
    conservative_weight: float,
) -> QObjectiveConfig:
    if monte_carlo_return is not None and not isinstance(monte_carlo_return, bool):
        raise RequestError(
            f"monte_carlo_return: found {monte_carlo_return!r}, expected True, False or None: the bound is not one "
            "number but what was achieved from each step on, which the data say"
        )
    value = value_arguments(model.state_value)
    if value["kind"] != "unbounded" and min_reward != value["low"]:
        raise RequestError(
            f"min_reward: found {min_reward}, expected {value['low']}, the least value of the model; "
            "build the model with values=... of another range, or change min_reward"
        )
    return checked(
        QObjectiveConfig(
            discount=discount,
            bootstrap_steps=(horizon,),
            monte_carlo_bound=monte_carlo_return is not False,
            conservative_weight=conservative_weight,
            value=value["kind"],
            value_low=min_reward,
            value_high=value.get("high", max(1.0, min_reward + 1.0)),
            value_atoms=value.get("num_atoms", QObjectiveConfig.value_atoms),
        )
    )
