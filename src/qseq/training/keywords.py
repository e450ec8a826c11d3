"""What learners built in Python share: keyword arguments that are understood or refused, and a run kept or not."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qseq.configuration import from_dict
from qseq.errors import RequestError
from qseq.training.config import TrainingConfig
from qseq.training.trainer import Trainer


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


def training_config(
    plain: Mapping[str, Any],
    *,
    average: Mapping[str, Any],
    accelerate: Mapping[str, Any],
    further: Mapping[str, Any] | None,
) -> TrainingConfig:
    """What a learner's arguments say of training.

    Args:
        plain: fields of `TrainingConfig`.
        average: keywords of `AVERAGE`, checked.
        accelerate: keywords of `ACCELERATOR`, checked; those of the Accelerator itself are left aside.
        further: more fields; none may be there already.

    Raises:
        RequestError: a precision that is not supported, or a field that another argument says already.
    """
    tree = {**plain, **average}
    if "beta" in tree:
        tree["target_rate"] = 1.0 - tree.pop("beta")
    if "precision" in accelerate:
        tree["precision"] = _precision(accelerate["precision"])
    if "trackers" in accelerate:
        log_with = accelerate["trackers"]
        tree["trackers"] = [log_with] if isinstance(log_with, str) else list(log_with or ())
    for key, value in (further or {}).items():
        if key in tree:
            raise RequestError(f"training_kwargs: found '{key}', which another argument says already")
        tree[key] = value
    return from_dict(TrainingConfig, tree)


def of_the_accelerator(accelerate: Mapping[str, Any]) -> dict[str, Any]:
    """Of keywords of `ACCELERATOR` those that accelerate's Accelerator is made with; the others are the training's."""
    return {key: accelerate[key] for key in ("cpu", "kwargs_handlers") if key in accelerate}


def train_in(run: Path, trainer: Trainer, *, temporary: bool, resume: bool) -> Path | None:
    """Train; returns the final checkpoint, or None where the run's folder is temporary and removed."""
    try:
        checkpoint = trainer.train(resume=resume)
    finally:
        if temporary:
            shutil.rmtree(run, ignore_errors=True)
    return None if temporary else checkpoint


def _precision(mixed_precision: str | None) -> str:
    """Accelerate's name of a precision -> ours."""
    names = {None: "fp32", "no": "fp32", "bf16": "bf16"}
    if mixed_precision not in names:
        raise RequestError(f"accelerate's keywords: found mixed_precision={mixed_precision!r}, expected 'no' or 'bf16'")
    return names[mixed_precision]
