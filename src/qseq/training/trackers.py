"""Experiment trackers, by accelerate: TensorBoard in the run folder, others (wandb, trackio, ...) by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import (  # type: ignore[import-untyped]
    LOGGER_TYPE_TO_CLASS,
    GeneralTracker,
    TensorBoardTracker,
    get_available_trackers,
)

from qseq.errors import ConfigError


def check_trackers(names: Sequence[str]) -> None:
    """Check that each name is a tracker whose package is installed.

    Raises:
        ConfigError: one is not.
    """
    available = [str(name) for name in get_available_trackers()]
    for name in names:
        if name not in LOGGER_TYPE_TO_CLASS:
            valid = ", ".join(LOGGER_TYPE_TO_CLASS)
            raise ConfigError(f"training.trackers: found '{name}', expected one of {valid}")
        if name not in available:
            raise ConfigError(
                f"training.trackers: found '{name}', whose package is not installed: "
                f"install it, or choose from {', '.join(available) or 'none'}"
            )


def start_trackers(names: Sequence[str], run: Path, config: Mapping[str, Any], first_step: int) -> list[GeneralTracker]:
    """Start a tracker for each name; what one shows past `first_step` is replaced.

    Raises:
        ConfigError: see `check_trackers`.
    """
    check_trackers(names)
    trackers: list[GeneralTracker] = []
    for name in names:
        cls = LOGGER_TYPE_TO_CLASS[name]
        if cls is TensorBoardTracker:
            tracker = TensorBoardTracker("tensorboard", run, purge_step=first_step + 1)
        else:
            tracker = cls("qseq", run) if cls.requires_logging_directory else cls("qseq")
        if hasattr(tracker, "start"):  # before accelerate 1.6 the constructor starts it
            tracker.start()
        if cls is not TensorBoardTracker:  # its table of hyperparameters is a second, unreadable run
            tracker.store_init_configuration(dict(config))
        trackers.append(tracker)
    return trackers
