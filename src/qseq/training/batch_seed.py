"""Random numbers that depend on the batch they are drawn for, and on nothing else."""

from __future__ import annotations

import random

import numpy as np
import torch

_SPREAD = 0x9E3779B97F4A7C15


def seed_batch(seed: int, index: int) -> None:
    """Set the random states of Python, numpy and torch (on every device) for the loss of the `index`-th batch.

    Dropout, noise and whatever else an objective draws is then a pure function of (seed, index), like the batch itself.
    So a resumed run needs no stored states, and it does not matter which process computes the batch, nor how many
    processes there are.
    """
    # Spread by a large odd number, so that runs of neighbouring seeds do not see each other's numbers.
    mixed = (seed * _SPREAD + index) % 2**63
    torch.manual_seed(mixed)
    np.random.seed(mixed % 2**32)
    random.seed(mixed)
