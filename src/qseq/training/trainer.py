"""One training loop for every family: a batch, its loss, an optimiser step, a step of the moving average.

Everything a step depends on is a function of the step number (which batches, which random numbers, which learning
rate) or is stored in the checkpoint (weights, optimiser, moving average). So a run that was killed and resumed gives,
bit for bit, the numbers of a run that was not.

The batch of an index is the same on every process, and so is what is drawn at random for it. A step averages
`processes * grad_accum_every` batches of consecutive indices, whoever computes them: with that product the same, one
process and many compute the same steps, but for the order in which floating-point numbers are added.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import accelerate  # type: ignore[import-untyped]
import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object  # type: ignore[import-untyped]
from torch import Tensor, nn

import qseq
from qseq.configuration import checked, flatten, write_config
from qseq.errors import ConfigError
from qseq.progress import Progress
from qseq.training.allocator import keep_freed_memory
from qseq.training.batch_seed import seed_batch
from qseq.training.checkpoint import checkpoint_name, read_record, remove_leftovers, write_checkpoint
from qseq.training.config import TrainingConfig
from qseq.training.interrupt import StopRequest
from qseq.training.learner import Learner, check_accelerator, is_sharded, make_accelerator
from qseq.training.metrics import MetricsFile, MetricWindow
from qseq.training.moving_average import MovingAverage, target_rate_at
from qseq.training.objective import BatchSource, CountingObjective, Objective, StatefulObjective
from qseq.training.optimiser import load_optimiser_tensors, make_optimiser, optimiser_tensors
from qseq.training.prefetch import Prefetcher, to_device
from qseq.training.run_folder import RunConfig, check_new_run, check_same_config, checkpoint_to_resume
from qseq.training.schedules import learning_rate_at
from qseq.training.sharding import make_equal, recompute_activations, shard
from qseq.training.shares import Shares, shares_of
from qseq.training.trackers import check_trackers, start_trackers
from qseq.training.weights import gathered, load_tensors, load_weights, require_weights, save_tensors, tensors_of, whole


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
        seed: of the random states (dropout and the like), see `seed_batch`.
        save_model: writes into a checkpoint what a policy needs beside the weights. It may write `model.safetensors`
            itself, which must then hold the model's state_dict as it is; otherwise the trainer writes it.
        has_target: whether the objective wants a moving average of the model.
        run_config: the whole resolved configuration, a dataclass, stored as config.yaml; its field `training` is
            `config`. By default only `config` and `seed` are stored.
        callbacks: called after each step, on every process. Where the model is sharded they must not call it.
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
        check_accelerator(self.accelerator, config, objective)
        self.sharded = is_sharded(self.accelerator, config)
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
        self._prepare()
        if self.last_checkpoint is not None:
            self._restore(self.last_checkpoint, record)
        if first_step == config.steps and self.last_checkpoint is not None:
            return self.last_checkpoint

        main = self.accelerator.is_main_process
        if main and config.trackers:
            settings = {key: str(value) for key, value in flatten(self.run_config).items()}
            self.accelerator.trackers = start_trackers(config.trackers, self.run, settings, first_step)
        self._logged_at, self._logged_step, self._logged_wait = time.monotonic(), first_step, 0.0
        ahead = config.grad_accum_every + 1  # a step takes all its batches at once
        try:
            with (
                StopRequest() as stop,
                Progress("training", config.steps, done=first_step, enabled=main) as progress,
                Prefetcher(self._load, self._batch_indices(first_step), ahead=ahead) as prefetcher,
            ):
                for step in range(first_step + 1, config.steps + 1):
                    self._step(step, prefetcher)
                    due = step % config.log_every == 0 or step == config.steps
                    text = self._log(step, prefetcher.seconds_waited) if due else None
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
        batches = [prefetcher.next() for _ in range(config.grad_accum_every)]
        shares = self._shares(batches)
        indices = self._indices_of(step)
        rows: list[Tensor] = []
        for number, index in enumerate(indices, start=1):
            # Whole gradients are exchanged between processes once a step, with the last batch. Parts of them are
            # exchanged with each batch: to keep them whole till the last one would take the memory that sharding saves.
            waits = number < len(indices) and not self.sharded
            seed_batch(self.seed, index)
            with self.accelerator.no_sync(self.learner) if waits else nullcontext():
                total, terms = self.learner(batches[number - 1], shares[number - 1])
                (total / config.grad_accum_every).backward()
            rows.append(torch.stack([value.detach().float() for value in (total, *terms.values())]))
        limit = config.max_grad_norm or float("inf")
        grad_norm = whole(nn.utils.clip_grad_norm_(self.model.parameters(), limit))
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

    def _shares(self, batches: Sequence[Any]) -> list[Shares]:
        if isinstance(self.objective, CountingObjective) and len(batches) * self.accelerator.num_processes > 1:
            return shares_of([self.objective.counts(batch) for batch in batches], self.accelerator)
        return [{}] * len(batches)

    def _indices_of(self, step: int) -> range:
        """Which batches this process reads for a step: every W-th of the step's."""
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        per_step = self.config.grad_accum_every * world
        return range((step - 1) * per_step + rank, step * per_step, world)

    def _batch_indices(self, first_step: int) -> Iterator[int]:
        for step in range(first_step + 1, self.config.steps + 1):
            yield from self._indices_of(step)

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

    def _log(self, step: int, seconds_waited: float) -> str:
        """`seconds_waited` for data since training began."""
        self.window.require_finite(self.last_checkpoint)
        means = self.window.take_means()
        if self.accelerator.num_processes > 1:
            means = {name: self.accelerator.reduce(value, "mean") for name, value in means.items()}
        now = time.monotonic()
        record: dict[str, Any] = {name: float(value) for name, value in means.items()}
        record["learning_rate"] = learning_rate_at(step - 1, self.config)
        seconds = max(now - self._logged_at, 1e-9)
        record["steps_per_second"] = (step - self._logged_step) / seconds
        record["waiting_for_data"] = (seconds_waited - self._logged_wait) / seconds
        self._logged_at, self._logged_step, self._logged_wait = now, step, seconds_waited
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
        found = self.accelerator.num_processes
        if record["batches_per_step"] != self.config.grad_accum_every * found:
            raise ConfigError(
                f"training.grad_accum_every: found {self.config.grad_accum_every} on {found} process(es), expected "
                f"another number of them: a step of {self.run} averages {record['batches_per_step']} batches, "
                "which must be the product of the two"
            )

    def _prepare(self) -> None:
        """Wrap the model for its device and its processes, then make what hangs on its parameters."""
        keep_freed_memory()
        device = self.accelerator.device
        self.model.to(device)
        if self.accelerator.num_processes > 1:
            make_equal(self.model)
        self.average = MovingAverage(self.model) if self.has_target else None
        target = self.average.model if self.average else None
        if self.config.recompute_activations:
            recompute_activations(self.model)
        learner = Learner(self.objective, self.model, self.config.precision, device)
        learner.set_target(target)
        if self.sharded:
            shard(learner, target, device)
            if self.average is not None:
                self.average.follow(self.model)
            self.learner: nn.Module = learner
        else:
            if self.config.compile:
                learner.compile()
            self.learner = self.accelerator.prepare(learner)
        # Not wrapped: for data-parallel training accelerate's optimiser adds nothing but a look-up a step.
        self.optimiser = make_optimiser(self.model, self.config)
        self.window = MetricWindow()

    def _save(self, step: int) -> Path:
        """Write the checkpoint of `step`."""
        self.window.require_finite(self.last_checkpoint)
        world, main = self.accelerator.num_processes, self.accelerator.is_main_process
        windows = gather_object([self.window.state()]) if world > 1 else [self.window.state()]
        tensors = {name: gathered(some, keep=main) for name, some in self._tensors().items()}
        if main:
            self.metrics.sync()
            record = {
                "step": step,
                "batches_per_step": self.config.grad_accum_every * world,
                "processes": world,
                "seed": self.seed,
                "versions": _versions(),
                "windows": windows,
            }
            write_checkpoint(
                self.run / "checkpoints",
                step,
                lambda folder: self._fill_checkpoint(folder, tensors),
                record,
                keep=self.config.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()
        self.last_checkpoint = self.run / "checkpoints" / checkpoint_name(step)
        return self.last_checkpoint

    def _tensors(self) -> dict[str, Mapping[str, Tensor]]:
        """What a checkpoint holds beside the policy: name of the file -> tensors, in one order on all processes."""
        tensors: dict[str, Mapping[str, Tensor]] = {"model": tensors_of(self.model)}
        if self.average is not None:
            tensors["target"] = self.average.tensors()
        tensors["optimizer"] = optimiser_tensors(self.optimiser, self.model)
        if isinstance(self.objective, StatefulObjective):
            tensors["objective"] = self.objective.state_tensors()
        return tensors

    def _fill_checkpoint(self, folder: Path, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
        if self.save_model is not None:
            self.save_model(self.model, folder)
        path = folder / "model.safetensors"
        if path.exists():
            require_weights(path, tensors["model"])
        for name, some in tensors.items():
            if not (folder / f"{name}.safetensors").exists():
                save_tensors(some, folder / f"{name}.safetensors")

    def _restore(self, folder: Path, record: dict[str, Any]) -> None:
        load_weights(self.model, folder / "model.safetensors")
        if self.average is not None:
            self.average.load(folder / "target.safetensors")
        path = folder / "optimizer.safetensors"
        load_optimiser_tensors(self.optimiser, self.model, load_tensors(path), path)
        if isinstance(self.objective, StatefulObjective):
            self.objective.load_state_tensors(load_tensors(folder / "objective.safetensors"))
        self.window.load_state(record["windows"], self.accelerator.process_index, self.accelerator.num_processes)


def _versions() -> dict[str, str]:
    return {
        "qseq": qseq.__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "accelerate": accelerate.__version__,
    }
