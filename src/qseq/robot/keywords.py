"""Dictionaries of keyword arguments that `QLearner` takes: each key means what it says or is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qseq.errors import RequestError


def checked_keywords(name: str, given: Mapping[str, Any] | None, known: Mapping[str, str]) -> dict[str, Any]:
    """`given` with its keys renamed as `known` says.

    Args:
        name: of the argument, for messages.
        known: key -> what it is called here; one that starts with "!" is a reason why the key is refused.

    Raises:
        RequestError: a key is not known, or refused.
    """
    renamed: dict[str, Any] = {}
    valid = [key for key, meaning in known.items() if not meaning.startswith("!")]
    for key, value in (given or {}).items():
        meaning = known.get(key, "!")
        if meaning.startswith("!"):
            why = f"; {meaning[1:]}" if len(meaning) > 1 else ""
            raise RequestError(f"{name}: found '{key}', expected some of {', '.join(valid)}{why}")
        renamed[meaning] = value
    return renamed


AVERAGE = {"beta": "beta", "update_after_step": "target_start", "update_every": "target_every"}

OPTIMISER = {
    "betas": "betas",
    "eps": "adam_epsilon",
    "lr": "!use learning_rate",
    "wd": "!use weight_decay",
    "weight_decay": "!use the argument of that name",
}

DATALOADER = {
    "shuffle": "shuffle",
    "batch_size": "!use the argument of that name",
    "num_workers": "!batches are gathered in one background thread, from memory-mapped files",
    "drop_last": "!batches come from an endless stream: each is full, and no step is left out",
}

ACCELERATOR = {
    "cpu": "cpu",
    "kwargs_handlers": "kwargs_handlers",
    "mixed_precision": "precision",
    "log_with": "trackers",
    "gradient_accumulation_steps": "!use grad_accum_every",
}


def precision_of(mixed_precision: str | None) -> str:
    """Accelerate's name of a precision -> ours. Raises RequestError for one that is not supported."""
    names = {None: "fp32", "no": "fp32", "bf16": "bf16"}
    if mixed_precision not in names:
        raise RequestError(f"accelerator_kwargs: found mixed_precision={mixed_precision!r}, expected 'no' or 'bf16'")
    return names[mixed_precision]
