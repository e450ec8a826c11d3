"""What a model that was built by hand needs to be told to act as a policy.

Legend: A action tokens of a decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from qseq.actions import ActionTokenizer, make_tokenizer
from qseq.errors import RequestError
from qseq.policies import TokenPolicySpec
from qseq.robot.model import QRoboticTransformer
from qseq.values import BoundedValue, CategoricalValue, ValueTransform


def fitting_tokenizer(
    model: QRoboticTransformer, action_space: Mapping[str, Any], samples: np.ndarray | None = None
) -> ActionTokenizer:
    """Actions <-> the model's tokens; a model with h times the tokens of an action decides h actions at once.

    Args:
        samples: actions [num, *shape], where an unbounded box takes its bounds from.

    Raises:
        RequestError: the model does not fit the action space.
    """
    bins = model.decoder.num_bins
    single = make_tokenizer(action_space, num_bins=bins, samples=samples)
    chunk, rest = divmod(model.num_actions, single.num_tokens)
    if rest or chunk < 1 or single.num_bins != bins:
        raise RequestError(
            f"model: found {model.num_actions} actions of {bins} bins, expected "
            f"num_actions = {single.num_tokens} (or a multiple, for chunks) and action_bins = {single.num_bins} "
            f"for the action space of type {action_space['type']}"
        )
    return make_tokenizer(action_space, num_bins=bins, samples=samples, chunk=chunk)


def describe_model(
    model: QRoboticTransformer,
    action_space: Mapping[str, Any],
    tokenizer: ActionTokenizer | None = None,
    *,
    value: Mapping[str, Any] | None = None,
    initial_value: float = 0.05,
    **fields: Any,
) -> TokenPolicySpec:
    """The spec of the model's policy.

    Args:
        tokenizer: `fitting_tokenizer` of the action space if not given.
        value: arguments of the model's value; read from the model if not given.
        fields: further fields of `TokenPolicySpec`.
    """
    return TokenPolicySpec(
        network=model.config,
        fields=dict(model.field_shapes),
        history=model.encoder.history,
        tokenizer=tokenizer or fitting_tokenizer(model, action_space),
        action_space=dict(action_space),
        extra={
            "value": dict(value if value is not None else value_arguments(model.state_value)),
            "initial_value": initial_value,
            "value_folds": len(model.folded_value.folds),
            "prior": model.prior is not None,
            "matching": model.matching is not None,
        },
        **fields,
    )


def value_arguments(values: ValueTransform) -> dict[str, Any]:
    """Arguments of `make_value_transform` that give a value of this kind and range."""
    if isinstance(values, BoundedValue):
        return {"kind": "bounded", "low": values.low, "high": values.high, "loss": values.loss_kind}
    if isinstance(values, CategoricalValue):
        return {"kind": "categorical", "low": values.low, "high": values.high, "num_atoms": values.num_atoms}
    return {"kind": "unbounded"}
