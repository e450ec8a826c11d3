"""Every hyperparameter of the training loop, with its meaning beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from qseq.configuration import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """How any objective is trained."""

    steps: PositiveInt = 3000  # optimiser steps in all
    batch_size: PositiveInt = 256  # samples of one batch of one process, before accumulation

    learning_rate: PositiveFloat = 3e-4  # AdamW
    schedule: Literal["constant", "cosine", "linear"] = "constant"  # after the warmup; the last two end at 0
    warmup_steps: NonNegativeInt = 100  # the learning rate climbs from 0 in a straight line
    weight_decay: NonNegativeFloat = 0.0  # of matrices only, not of biases, norms and embeddings
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    adam_epsilon: PositiveFloat = 1e-8  # added to the root of AdamW's second moment
    max_grad_norm: NonNegativeFloat = 1.0  # gradients longer than this are scaled down to it; 0 leaves them as they are
    grad_accum_every: PositiveInt = 1  # batches of one process averaged into one optimiser step
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights and optimiser stay float32

    target_rate: Fraction = 0.01  # target += target_rate * (online - target) ...
    target_every: PositiveInt = 1  # ... every so many steps
    target_start: NonNegativeInt = 0  # until this step the target is a plain copy of the online model

    checkpoint_every: PositiveInt = 1000  # steps; one is always written at the end
    keep_checkpoints: PositiveInt = 2  # the newest ones
    log_every: PositiveInt = 50  # steps averaged into one line of metrics.jsonl
    trackers: tuple[str, ...] = ("tensorboard",)  # by accelerate's names: tensorboard, wandb, trackio, ...

    threads: NonNegativeInt = 0  # CPU threads of torch; 0 leaves torch's own choice
    compile: bool = False  # torch.compile the loss
    parallel: Literal["ddp", "fsdp"] = "ddp"  # of several processes: each holds the whole model, or a part (FSDP2)
    recompute_activations: bool = False  # keep only the inputs of blocks for the backward pass: less memory, more time


# Keys that may differ between the run that wrote a checkpoint and the run that resumes it: they do not change what a
# step computes (`steps` moves the end, and with it a schedule that is stretched over them; that is the user's choice).
# The number of processes may change as well if `grad_accum_every` does: a step must go on averaging as many batches.
CHANGEABLE_ON_RESUME = frozenset(
    {
        "steps",
        "checkpoint_every",
        "keep_checkpoints",
        "log_every",
        "trackers",
        "threads",
        "grad_accum_every",
        "parallel",
        "recompute_activations",
    }
)
