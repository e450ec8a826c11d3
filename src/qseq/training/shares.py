"""How much each batch of a step counts, so that a mean over tokens is one over the tokens of all processes.

Legend: G batches of one process in a step, W processes, K names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from accelerate import Accelerator  # type: ignore[import-untyped]
from torch import Tensor

from qseq.training.objective import WHOLE, Losses

Shares = Mapping[str, Tensor]
"""Name of a part or term -> its weight in the mean over the W * G batches of a step; 1 where all count alike."""


def shares_of(counts: Sequence[Mapping[str, Tensor]], accelerator: Accelerator) -> list[Shares]:
    """Of what each batch of this process counts, the shares of each: `W * G * count / sum of all counts`.

    The mean over batches and processes of `share * mean of the batch` is the mean over everything that was counted:
    `sum(count_i * mean_i) / sum(count_i)`. One all-reduce of K numbers a step.

    Args:
        counts: of the G batches, see `CountingObjective`.
    """
    names = list(counts[0])
    if not names:
        return [{}] * len(counts)
    counts_GK = torch.stack([torch.stack([item[name].float() for name in names]) for item in counts])
    total_K = counts_GK.sum(0)
    if accelerator.num_processes > 1:
        total_K = accelerator.reduce(total_K, "sum")
    # Where nothing was counted anywhere the mean is that of nothing, whatever its weight.
    shares_GK = counts_GK * (len(counts) * accelerator.num_processes) / total_K.clamp_min(1e-30)
    return [dict(zip(names, row_K.unbind(), strict=True)) for row_K in shares_GK]


def weigh(losses: Losses, shares: Shares) -> tuple[Tensor, dict[str, Tensor]]:
    """The total loss of a batch and its terms, each weighted by its share."""
    if not shares:
        return losses.total, dict(losses.terms)
    whole = shares.get(WHOLE, losses.total.new_ones(()))
    total = losses.total * whole
    for name, part in losses.parts.items():
        total = total + part * (shares.get(name, whole) - whole)
    return total, {name: term * shares.get(name, whole) for name, term in losses.terms.items()}
