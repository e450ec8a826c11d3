"""The folder of a run: whether it may be started or resumed, and with which configuration.

config.yaml  metrics.jsonl  checkpoints/  tensorboard/  evaluations/
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qseq.configuration import flatten, load_config
from qseq.errors import ConfigError, RequestError
from qseq.training.checkpoint import latest_checkpoint
from qseq.training.config import CHANGEABLE_ON_RESUME, TrainingConfig
from qseq.training.metrics import MetricsFile


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What is stored with a run whose caller gives no configuration of its own."""

    training: TrainingConfig
    seed: int = 0


def check_new_run(run: Path) -> None:
    """Check that nothing would be overwritten.

    Raises:
        RequestError: `run` exists and is not an empty folder.
    """
    run = Path(run)
    if run.is_dir() and not any(run.iterdir()):
        return
    if run.exists():
        raise RequestError(f"run folder {run} already exists; choose another folder, or resume it with --resume")


def checkpoint_to_resume(run: Path, first_checkpoint: int) -> Path | None:
    """The newest checkpoint of `run`, or None if it was stopped before its first one, due at `first_checkpoint`.

    Raises:
        RequestError: there is no run, or it got past its first checkpoint and yet has none.
        DataError: its newest checkpoint is missing.
    """
    run = Path(run)
    if not (run / "config.yaml").is_file():
        raise RequestError(f"run folder {run}: nothing to resume (found no config.yaml); start it without --resume")
    checkpoints = run / "checkpoints"
    if (checkpoints / "latest").exists() or any(checkpoints.glob("step_*")):
        return latest_checkpoint(run)
    done = MetricsFile(run / "metrics.jsonl").last_step()
    if done > first_checkpoint:
        raise RequestError(
            f"run folder {run}: its checkpoints are missing (metrics.jsonl reaches step {done}, {checkpoints} holds "
            "none); put them back, or start anew in another folder"
        )
    return None


def check_same_config(run: Path, config: Any) -> None:
    """Check that a resumed run has the configuration it was started with.

    Raises:
        ConfigError: a key that changes what a step computes differs; the message names it.
    """
    path = Path(run) / "config.yaml"
    stored = flatten(load_config(type(config), file=path))
    asked = flatten(config)
    changeable = {f"training.{key}" for key in CHANGEABLE_ON_RESUME}
    for key in [*asked, *(key for key in stored if key not in asked)]:
        if key not in changeable and asked.get(key) != stored.get(key):
            raise ConfigError(
                f"{key}: found {asked.get(key)!r}, expected {stored.get(key)!r} as in {path}: a resumed run keeps its "
                f"settings (only training.{{{', '.join(sorted(CHANGEABLE_ON_RESUME))}}} may change)"
            )
