"""From data sources to what a family of token policies trains on: windows, tokenizer, network layout."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from qseq.actions import ActionTokenizer, make_tokenizer
from qseq.configuration import PositiveInt
from qseq.episodes import PAST_ACTIONS, ActionSpace, EpisodeView, PastActions, Windows, WindowSpec
from qseq.episodes.statistics import compute_statistics
from qseq.errors import ConfigError, RequestError
from qseq.networks.action_network import NetworkConfig, resolve
from qseq.networks.frozen_text import TextInputs
from qseq.networks.observation import FieldLayout
from qseq.observations import is_image
from qseq.policies.augmentation import CroppedWindows, ShiftedWindows
from qseq.policies.data import DataConfig, open_view, with_success_share
from qseq.policies.endings import EndingsFirst
from qseq.policies.token_policy_spec import TokenPolicySpec
from qseq.training import BatchSource, TrainingConfig

__all__ = [
    "ActionConfig",
    "DataConfig",
    "PreparedData",
    "default_training",
    "instruction_inputs",
    "needs_instruction",
    "only_instruction",
    "open_view",
    "prepare",
    "with_success_share",
]

_QUANTILE_SAMPLES = 100_000
_EMBEDDINGS = "instruction_embeddings"


@dataclass(frozen=True, kw_only=True)
class ActionConfig:
    """How actions become tokens."""

    num_bins: PositiveInt = 32
    bins: Literal["uniform", "quantile"] = "uniform"
    chunk: PositiveInt = 1
    """Consecutive actions that make one decision."""


def default_training() -> TrainingConfig:
    """Settings that families of token policies share, so that they are compared on the same budget."""
    return TrainingConfig(steps=2500, learning_rate=1e-3, schedule="cosine", weight_decay=0.01)


@dataclass(frozen=True)
class PreparedData:
    """What preparing gives."""

    view: EpisodeView
    windows: BatchSource
    window_spec: WindowSpec
    policy_spec: TokenPolicySpec
    layouts: dict[str, FieldLayout]
    instructions: Tensor
    """What the network reads of the instructions (see `TextInputs`), row by instruction id."""


def prepare(
    view: EpisodeView,
    *,
    data: DataConfig,
    actions: ActionConfig,
    network: NetworkConfig,
    bootstrap_steps: tuple[int, ...],
    discount: float,
    min_return: float,
    batch_size: int,
    seed: int,
    extra: dict[str, Any],
    endings_first: int = 0,
) -> PreparedData:
    """Cut windows and lay out the network. `extra` is what the family stores with its policy.

    The first `endings_first` batches are of the last steps of successes, see `EndingsFirst`.

    Raises:
        RequestError: a field named in `data.fields` is not in the data; shifts or crops that the cameras do not allow;
            a model of another library that is not to be had.
    """
    network = resolve(network)
    chosen = data.fields or tuple(view.fields)
    missing = [name for name in chosen if name not in view.fields]
    if missing:
        raise RequestError(f"data.fields: found '{missing[0]}', expected some of {sorted(view.fields)}")
    tokenizer = _tokenizer(view, actions, seed)
    shapes = {name: tuple(view.fields[name].shape) for name in chosen}
    statistics = compute_statistics(view, [name for name in chosen if not is_image(shapes[name])])
    spec = WindowSpec(
        history=data.history + data.first_frame,
        first_frame=data.first_frame,
        bootstrap_steps=bootstrap_steps,
        num_action_steps=max(actions.chunk, *bootstrap_steps) if bootstrap_steps else actions.chunk,
    )
    past = PastActions(ActionSpace.from_json(view.action_space), data.past_actions) if data.past_actions else None
    if past is not None:
        shapes[PAST_ACTIONS] = past.shape
    plain = Windows(
        view,
        spec,
        batch_size=batch_size,
        seed=seed,
        discount=discount,
        min_return=min_return,
        fields=chosen,
        past_actions=past,
    )
    endings = EndingsFirst(plain, view, batches=endings_first, seed=seed)
    windows = _augmented(endings, data, seed)
    policy_spec = TokenPolicySpec(
        network=network,
        fields=shapes,
        history=spec.history,
        first_frame=spec.first_frame,
        tokenizer=tokenizer,
        action_space=view.action_space,
        extra=extra,
        default_instruction=only_instruction(view),
        needs_instruction=needs_instruction(view, network),
        crop=data.random_crop,
    )
    layouts = {
        name: replace(layout, mean=torch.as_tensor(statistics[name].mean), std=torch.as_tensor(statistics[name].std))
        if name in statistics
        else layout
        for name, layout in policy_spec.blank_layouts().items()
    }
    instructions = instruction_inputs(view, network)
    return PreparedData(view, windows, spec, policy_spec, layouts, instructions)


def instruction_inputs(view: EpisodeView, network: NetworkConfig) -> Tensor:
    """What the network reads of the data's instructions, row by id; a frozen encoder's work is kept beside the data.

    `network` is resolved.
    """
    return TextInputs(network.text, view.stores[0].path / _EMBEDDINGS)(view.instructions or [""])


def needs_instruction(view: EpisodeView, network: NetworkConfig) -> bool:
    """Whether a policy cannot act unless it is told something: it was always told, and not always the same."""
    told = set(view.instructions)
    never_without = "" not in told and network.text.drop_probability == 0
    return network.text.encoder != "none" and len(told) > 1 and never_without


def _augmented(windows: EndingsFirst, data: DataConfig, seed: int) -> BatchSource:
    if data.random_crop and data.random_shift:
        raise ConfigError(
            f"data.random_crop, data.random_shift: found {data.random_crop} and {data.random_shift}, expected one of "
            "them to be 0: a crop at random is a shift already"
        )
    if data.random_crop:
        return CroppedWindows(windows, pixels=data.random_crop, seed=seed)
    if data.random_shift:
        return ShiftedWindows(windows, pixels=data.random_shift, seed=seed)
    return windows


def only_instruction(view: EpisodeView) -> str:
    """The instruction of the data if they hold but one, else the empty text."""
    return view.instructions[0] if len(view.instructions) == 1 else ""


def _tokenizer(view: EpisodeView, actions: ActionConfig, seed: int) -> ActionTokenizer:
    needs_samples = view.action_space["type"] == "box"
    samples = view.action_samples(_QUANTILE_SAMPLES, seed) if needs_samples else None
    return make_tokenizer(
        view.action_space, num_bins=actions.num_bins, bins=actions.bins, samples=samples, chunk=actions.chunk
    )
