"""What accelerate wraps: an objective and its model as one module."""

from __future__ import annotations

import atexit
import os
import platform
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from accelerate.utils import DistributedDataParallelKwargs, DistributedType  # type: ignore[import-untyped]
from torch import Tensor, nn

from qseq.errors import ConfigError
from qseq.training.config import TrainingConfig
from qseq.training.objective import Objective, StatefulObjective
from qseq.training.shares import Shares, weigh


class Learner(nn.Module):
    """The objective as a module: accelerate wraps `forward`, whatever methods of the model the objective calls."""

    def __init__(self, objective: Objective, model: nn.Module, precision: str, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self._objective = (objective,)  # in tuples: their parameters, if any, are not to be trained
        self._target: tuple[nn.Module | None] = (None,)
        self.target: nn.Module | None = None  # in the place of `_target` where it is sharded with the model
        self._autocast = (device.type, precision == "bf16")
        if precision == "bf16" and device.type == "cpu":
            _warn_if_slow()

    def set_target(self, target: nn.Module | None) -> None:
        """The moving average that the objective sees from now on."""
        self._target = (target,)

    def forward(self, batch: Any, shares: Shares) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss of a batch, float32, and its terms, weighted by what the batch counts in its step."""
        device_type, enabled = self._autocast
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=enabled):
            losses = self._objective[0].loss(batch, self.model, self._target[0])
        total, terms = weigh(losses, shares)
        return total.float(), {name: term.detach() for name, term in terms.items()}


def _warn_if_slow() -> None:
    """x86 processors without AVX-512 do bfloat16 products one by one: measured, a thirteenth of the rate of float32."""
    capability = torch.backends.cpu.get_cpu_capability()
    if platform.machine().lower() in ("x86_64", "amd64") and not capability.startswith("AVX512"):
        warnings.warn(
            f"training.precision=bf16: this processor ({capability}) has no instructions for it and will be many "
            "times slower than with training.precision=fp32",
            stacklevel=2,
        )


def make_accelerator(*, cpu: bool = False, kwargs_handlers: Sequence[Any] = ()) -> Accelerator:
    """An Accelerator for the way this process was launched.

    Args:
        cpu: use no other device, though there may be one.
        kwargs_handlers: settings of accelerate, such as its `DistributedDataParallelKwargs`.
    """
    # Precision and accumulation are done by the trainer, where they can be read (and, unlike accelerate's, differ
    # between two trainers of one process). Some parameters may get no gradient in a step: a dropped condition.
    handlers = list(kwargs_handlers)
    if not any(isinstance(handler, DistributedDataParallelKwargs) for handler in handlers):
        # Gradients as views of what is sent: no second copy of them, and none to and fro at each step.
        handlers.append(DistributedDataParallelKwargs(find_unused_parameters=True, gradient_as_bucket_view=True))
    # Unless told so, accelerate takes several processes without a GPU for strangers: each would train alone.
    cpu = cpu or (int(os.environ.get("WORLD_SIZE", "1")) > 1 and not torch.accelerator.is_available())
    accelerator = Accelerator(cpu=cpu, kwargs_handlers=handlers)
    if accelerator.num_processes > 1:
        atexit.register(_leave_process_group)
    return accelerator


def _leave_process_group() -> None:
    """Stop the group's threads before the interpreter goes: one still running then aborts the process now and then."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def is_sharded(accelerator: Accelerator, config: TrainingConfig) -> bool:
    """Whether each process holds a part of the model: the configuration says so, or the launcher (`--use_fsdp`)."""
    launched = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    return accelerator.num_processes > 1 and (config.parallel == "fsdp" or launched)


def check_accelerator(accelerator: Accelerator, config: TrainingConfig, objective: Objective) -> None:
    """Check that the launcher's settings do not contradict the configuration, and that what is asked for goes together.

    Raises:
        ConfigError: they do, or it does not.
    """
    kind = accelerator.distributed_type
    if kind == DistributedType.FSDP:
        from torch.distributed.fsdp import CPUOffloadPolicy

        plugin = accelerator.state.fsdp_plugin
        offloads = isinstance(plugin.cpu_offload, CPUOffloadPolicy)
        if plugin.fsdp_version != 2 or plugin.activation_checkpointing or offloads:
            raise ConfigError(
                "launched with accelerate's FSDP: expected --fsdp_version 2 without offloading and activation "
                "checkpointing (set training.recompute_activations=true instead)"
            )
    elif kind != DistributedType.NO and not str(kind.value).startswith("MULTI_"):
        raise ConfigError(
            f"launched with accelerate's {kind.value}: expected data-parallel training on one or more devices"
        )
    if is_sharded(accelerator, config):
        if isinstance(objective, StatefulObjective):
            raise ConfigError(
                "training.parallel: found fsdp, expected ddp with objective.regenerative_weight or any other objective "
                "that remembers whole weights: no process has them"
            )
        if config.compile:
            raise ConfigError("training.parallel: found fsdp, expected ddp with training.compile=true")
    if accelerator.mixed_precision not in ("no", "fp32" if config.precision == "fp32" else config.precision):
        raise ConfigError(
            f"training.precision: found {config.precision}, but accelerate was launched with mixed precision "
            f"{accelerator.mixed_precision}: make them agree"
        )
    if accelerator.gradient_accumulation_steps != 1:
        raise ConfigError(
            "training.grad_accum_every: accelerate was launched with "
            f"{accelerator.gradient_accumulation_steps} gradient accumulation steps, expected 1: set this key instead"
        )
