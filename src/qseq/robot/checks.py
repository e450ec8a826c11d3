"""Whether an objective fits the data and the model, found out before training."""

from __future__ import annotations

from dataclasses import replace

from qseq.episodes import EpisodeView
from qseq.errors import ConfigError, RequestError
from qseq.networks.text import TextConfig
from qseq.robot.objective_config import QObjectiveConfig
from qseq.values import BoundedValue, ValueTransform, make_value_transform


def check_value_range(objective: QObjectiveConfig, view: EpisodeView, advice: str) -> None:
    """A bounded value must be able to hold the returns in the data.

    Raises:
        ConfigError: it cannot; ends in `advice`.
    """
    if objective.value == "unbounded":
        return
    returns = view.returns_to_go(objective.discount)
    low, high = float(returns.min()), float(returns.max())
    tolerance = 1e-6 * max(1.0, abs(low), abs(high))
    if low < objective.value_low - tolerance or high > objective.value_high + tolerance:
        raise ConfigError(
            f"objective.value_low, objective.value_high: found [{objective.value_low}, {objective.value_high}], but "
            f"discounted returns in the data span [{low:.6g}, {high:.6g}]: {advice}"
        )


def check_same_value(objective: QObjectiveConfig, values: ValueTransform) -> None:
    """What the objective trains must be what the model reads its logits as; the loss may differ.

    Raises:
        RequestError: it is another kind of value, or another range.
    """
    expected, found = make_value_transform(**objective.value_arguments()), values
    if isinstance(expected, BoundedValue) and isinstance(found, BoundedValue):
        found = replace(found, loss_kind=expected.loss_kind)
    if expected != found:
        raise RequestError(
            f"model: found logits that mean {values}, expected {expected} as the objective trains them; "
            "build the model with values=... of that kind"
        )


def check_mismatched(objective: QObjectiveConfig, view: EpisodeView, text: TextConfig) -> None:
    """To show successes with other instructions takes successes and instructions.

    Raises:
        ConfigError: the network reads no instructions. RequestError: the data have but one, or no success.
    """
    if not objective.mismatched_share:
        return
    found = f"objective.mismatched_share: found {objective.mismatched_share}, expected 0"
    if text.encoder == "none":
        raise ConfigError(
            f"{found} with network.text.encoder=none: without words the same samples would be worth one thing and "
            "another"
        )
    if len(view.instructions) < 2 or not (view.success == 1).any():
        raise RequestError(
            f"{found}: the data have {len(view.instructions)} instruction(s) and {int((view.success == 1).sum())} "
            "successful episodes"
        )
