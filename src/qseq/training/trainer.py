"""One training loop for every family: a batch, its loss, an optimiser step, a step of the moving average.

Everything a step depends on is a function of the step number (which batches, which learning rate) or is stored in the
checkpoint (weights, optimiser, moving average, random states). So a run that was killed and resumed gives, bit for
bit, the numbers of a run that was not.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate  # type: ignore[import-untyped]
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object, set_seed  # type: ignore[import-untyped]
from torch import Tensor, nn

import qseq
from qseq.configuration import checked, flatten, write_config
from qseq.errors import ConfigError
from qseq.progress import Progress
from qseq.training.allocator import keep_freed_memory
from qseq.training.checkpoint import checkpoint_name, read_record, remove_leftovers, write_checkpoint
from qseq.training.config import TrainingConfig
from qseq.training.interrupt import StopRequest
from qseq.training.learner import Learner, check_accelerator, make_accelerator
from qseq.training.metrics import MetricsFile, MetricWindow
from qseq.training.moving_average import MovingAverage, target_rate_at
from qseq.training.objective import BatchSource, Objective, StatefulObjective
from qseq.training.optimiser import load_optimiser_tensors, make_optimiser, optimiser_tensors
from qseq.training.prefetch import Prefetcher, to_device
from qseq.training.random_state import random_state, set_random_state
from qseq.training.run_folder import RunConfig, check_new_run, check_same_config, checkpoint_to_resume
from qseq.training.schedules import learning_rate_at
from qseq.training.trackers import check_trackers, start_trackers
from qseq.training.weights import load_tensors, load_weights, require_weights, save_tensors, tensors_of


@dataclass(frozen=True)
class TrainerState:
    """What a callback sees after each step. `step` counts the optimiser steps done."""

    step: int
    model: nn.Module
    target: nn.Module | None
    run: Path
    checkpoint: Path | None  # the one just written, None at steps without one


class Trainer:
    """Trains `model` on `objective` with batches from `batches`, into the folder `run`.

    Args:
        objective: batch -> Losses.
        model: trained in place. Frozen parts are parameters with `requires_grad=False`.
        batches: `batch_at(index)`, a pure function of the index. The rank r of w reads, for micro-step i of step s,
            the index (s * grad_accum_every + i) * w + r.
        run: the run folder; it must not exist yet, or be empty, unless resumed.
        seed: of the random states (dropout and the like); rank r uses seed + r.
        save_model: writes into a checkpoint what a policy needs beside the weights. It may write `model.safetensors`
            itself, which must then hold the model's state_dict as it is; otherwise the trainer writes it.
        has_target: whether the objective wants a moving average of the model.
        run_config: the whole resolved configuration, a dataclass, stored as config.yaml; its field `training` is
            `config`. By default only `config` and `seed` are stored.
        callbacks: called after each step, on every process; one that draws random numbers uses its own generator.
        accelerator: for settings this class has no name for; by default one is made.

    Raises:
        ConfigError: a value of `config` is not valid, or contradicts how the program was launched.
    """

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        batches: BatchSource,
        config: TrainingConfig,
        *,
        run: Path,
        seed: int = 0,
        save_model: Callable[[nn.Module, Path], None] | None = None,
        has_target: bool = True,
        run_config: Any = None,
        callbacks: Sequence[Callable[[TrainerState], None]] = (),
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = checked(config)
        check_trackers(config.trackers)
        self.objective = objective
        self.model = model
        self.batches = batches
        self.run = Path(run)
        self.seed = seed
        self.save_model = save_model
        self.has_target = has_target
        self.run_config = run_config if run_config is not None else RunConfig(training=config, seed=seed)
        self.callbacks = tuple(callbacks)
        self.accelerator = accelerator if accelerator is not None else make_accelerator()
        check_accelerator(self.accelerator, config)
        self.metrics = MetricsFile(self.run / "metrics.jsonl")
        self.last_checkpoint: Path | None = None
        # Reading a loss stalls a GPU, so there only `_log` and `_save` look for NaN.
        self.looks_at_each_step = self.accelerator.device.type == "cpu"

    def train(self, resume: bool = False) -> Path:
        """Train up to `config.steps` and return the final checkpoint's folder.

        Raises:
            RequestError: the run folder exists and `resume` is False, or there is nothing to resume, or the disk is
                full (checkpoints written before are intact).
            ConfigError: resumed with settings that differ from those of the run.
            DataError: the checkpoint to resume from is damaged.
            NonFiniteLossError: the loss became NaN or infinite; no checkpoint holds the bad weights.
            KeyboardInterrupt: Ctrl-C, after a checkpoint of the step that was being done.
        """
        config = self.config
        record, first_step = self._open_run(resume)
        if config.threads:
            torch.set_num_threads(config.threads)
        keep_freed_memory()
        set_seed(self.seed + self.accelerator.process_index)
        self._prepare()
        if self.last_checkpoint is not None:
            self._restore(self.last_checkpoint, record)
        if first_step == config.steps and self.last_checkpoint is not None:
            return self.last_checkpoint

        main = self.accelerator.is_main_process
        if main and config.trackers:
            settings = {key: str(value) for key, value in flatten(self.run_config).items()}
            self.accelerator.trackers = start_trackers(config.trackers, self.run, settings, first_step)
        self._logged_at, self._logged_step = time.monotonic(), first_step
        try:
            with (
                StopRequest() as stop,
                Progress("training", config.steps, done=first_step, enabled=main) as progress,
                Prefetcher(self._load, self._batch_indices(first_step)) as prefetcher,
            ):
                for step in range(first_step + 1, config.steps + 1):
                    self._step(step, prefetcher)
                    text = self._log(step) if step % config.log_every == 0 or step == config.steps else None
                    stopping = self._agree_to_stop(stop, step)
                    due = step % config.checkpoint_every == 0 or step == config.steps or stopping
                    checkpoint = self._save(step) if due else None
                    for callback in self.callbacks:
                        target = self.average.model if self.average else None
                        callback(TrainerState(step, self.model, target, self.run, checkpoint))
                    progress.advance(text=text)
                    if stopping and step < config.steps:
                        stop.raise_now()
        finally:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            self.accelerator.trackers = []
        assert self.last_checkpoint is not None  # the last step always writes one
        return self.last_checkpoint

    # --- one step ------------------------------------------------------------------------------------------------

    def _step(self, step: int, prefetcher: Prefetcher) -> None:
        """The `step`-th optimiser step, counted from 1."""
        config = self.config
        if not self.model.training:  # a callback may have used it
            self.model.train()
        rows: list[Tensor] = []
        for micro_step in range(config.grad_accum_every):
            last = micro_step == config.grad_accum_every - 1
            # Gradients are exchanged between processes once a step, with the last batch.
            with nullcontext() if last else self.accelerator.no_sync(self.learner):
                total, terms = self.learner(prefetcher.next())
                (total / config.grad_accum_every).backward()
            rows.append(torch.stack([value.detach().float() for value in (total, *terms.values())]))
        limit = config.max_grad_norm or float("inf")
        grad_norm = nn.utils.clip_grad_norm_(self.model.parameters(), limit)
        values = torch.stack(rows).mean(dim=0) if len(rows) > 1 else rows[0]
        self.window.add(step, ("loss", *terms, "grad_norm"), torch.cat([values, grad_norm.detach().float().view(1)]))
        if self.looks_at_each_step:
            self.window.require_finite(self.last_checkpoint)

        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate_at(step - 1, config)
        self.optimiser.step()
        self.optimiser.zero_grad()
        if self.average is not None:
            self.average.update(target_rate_at(step, config))

    def _batch_indices(self, first_step: int) -> Iterator[int]:
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        per_step = self.config.grad_accum_every
        for micro_step in range(first_step * per_step, self.config.steps * per_step):
            yield micro_step * world + rank

    def _load(self, index: int) -> Any:
        return to_device(self.batches.batch_at(index), self.accelerator.device)

    def _agree_to_stop(self, stop: StopRequest, step: int) -> bool:
        if self.accelerator.num_processes == 1:
            return stop.signal is not None
        # Processes get a signal at different steps, and must save at the same one.
        if step % self.config.log_every != 0:
            return False
        asked = torch.tensor(float(stop.signal is not None), device=self.accelerator.device)
        return bool(self.accelerator.reduce(asked, "sum").item() > 0)

    def _log(self, step: int) -> str:
        self.window.require_finite(self.last_checkpoint)
        means = self.window.take_means()
        if self.accelerator.num_processes > 1:
            means = {name: self.accelerator.reduce(value, "mean") for name, value in means.items()}
        now = time.monotonic()
        record: dict[str, Any] = {name: float(value) for name, value in means.items()}
        record["learning_rate"] = learning_rate_at(step - 1, self.config)
        record["steps_per_second"] = (step - self._logged_step) / max(now - self._logged_at, 1e-9)
        self._logged_at, self._logged_step = now, step
        if self.accelerator.is_main_process:
            self.metrics.append({"step": step, **record})
            self.accelerator.log(record, step=step)
        return f"loss {record['loss']:.4g}"

    # --- the run folder and its checkpoints ----------------------------------------------------------------------

    def _open_run(self, resume: bool) -> tuple[dict[str, Any], int]:
        """Check everything before anything is written; return the checkpoint's record and the steps it has done."""
        record: dict[str, Any] = {}
        first_step = 0
        if resume:
            self.last_checkpoint = checkpoint_to_resume(self.run, self.config.checkpoint_every)
            check_same_config(self.run, self.run_config)
            if self.last_checkpoint is not None:
                record = read_record(self.last_checkpoint)
                first_step = record["step"]
                self._check_record(record)
        else:
            check_new_run(self.run)
        self.accelerator.wait_for_everyone()  # all have looked at the folder: now it may change
        if self.accelerator.is_main_process:
            (self.run / "checkpoints").mkdir(parents=True, exist_ok=True)
            remove_leftovers(self.run / "checkpoints")
            write_config(self.run_config, self.run / "config.yaml")
            self.metrics.truncate_after(first_step)
        self.accelerator.wait_for_everyone()
        return record, first_step

    def _check_record(self, record: dict[str, Any]) -> None:
        if record["step"] > self.config.steps:
            raise ConfigError(
                f"training.steps: found {self.config.steps}, but {self.last_checkpoint} has done {record['step']} steps"
                " already: ask for at least as many"
            )
        world = self.accelerator.num_processes
        if record["processes"] != world:
            raise ConfigError(
                f"{self.run}: found {world} processes, expected {record['processes']} as when it was started: "
                "each step reads one batch a process"
            )

    def _prepare(self) -> None:
        """Wrap the model for its device and its processes, then make what hangs on its parameters."""
        device = self.accelerator.device
        self.model.to(device)
        learner = Learner(self.objective, self.model, self.config.precision, device)
        if self.config.compile:
            learner.compile()
        self.learner = self.accelerator.prepare(learner)
        # Not wrapped: for data-parallel training accelerate's optimiser adds nothing but a look-up a step.
        self.optimiser = make_optimiser(self.model, self.config)
        # Copied only now: wrapping has made the weights of all processes equal.
        self.average = MovingAverage(self.model) if self.has_target else None
        learner.set_target(self.average.model if self.average else None)
        self.window = MetricWindow()

    def _save(self, step: int) -> Path:
        """Write the checkpoint of `step`."""
        self.window.require_finite(self.last_checkpoint)
        mine = {"random": random_state(self.accelerator.device), "window": self.window.state()}
        ranks = gather_object([mine]) if self.accelerator.num_processes > 1 else [mine]
        if self.accelerator.is_main_process:
            self.metrics.sync()
            record = {
                "step": step,
                "next_batch": step * self.config.grad_accum_every * self.accelerator.num_processes,
                "processes": self.accelerator.num_processes,
                "seed": self.seed,
                "versions": _versions(),
                "ranks": ranks,
            }
            write_checkpoint(
                self.run / "checkpoints", step, self._fill_checkpoint, record, keep=self.config.keep_checkpoints
            )
        self.accelerator.wait_for_everyone()
        self.last_checkpoint = self.run / "checkpoints" / checkpoint_name(step)
        return self.last_checkpoint

    def _fill_checkpoint(self, folder: Path) -> None:
        weights = tensors_of(self.model)
        if self.save_model is not None:
            self.save_model(self.model, folder)
        path = folder / "model.safetensors"
        if path.exists():
            require_weights(path, weights)
        else:
            save_tensors(weights, path)
        if self.average is not None:
            save_tensors(self.average.tensors(), folder / "target.safetensors")
        save_tensors(optimiser_tensors(self.optimiser, self.model), folder / "optimizer.safetensors")
        if isinstance(self.objective, StatefulObjective):
            save_tensors(self.objective.state_tensors(), folder / "objective.safetensors")

    def _restore(self, folder: Path, record: dict[str, Any]) -> None:
        load_weights(self.model, folder / "model.safetensors")
        if self.average is not None:
            self.average.load(folder / "target.safetensors")
        path = folder / "optimizer.safetensors"
        load_optimiser_tensors(self.optimiser, self.model, load_tensors(path), path)
        if isinstance(self.objective, StatefulObjective):
            self.objective.load_state_tensors(load_tensors(folder / "objective.safetensors"))
        mine = record["ranks"][self.accelerator.process_index]
        self.window.load_state(mine["window"])
        set_random_state(mine["random"], self.accelerator.device)


def _versions() -> dict[str, str]:
    return {
        "qseq": qseq.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "accelerate": accelerate.__version__,
    }
