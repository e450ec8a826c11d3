"""What networks see of numbers besides the numbers.

Legend: F frequencies.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class SineFeatures(nn.Module):
    """Numbers, and sines and cosines of them: what is sharp in space is hard to fit without (Tancik et al. 2020).

    Args:
        inputs: how many numbers.
        frequencies: F, each twice the one before; the first has a period of 4.
    """

    def __init__(self, inputs: int, frequencies: int) -> None:
        super().__init__()
        self.size = inputs * (1 + 2 * frequencies)
        self.register_buffer("angles_F", math.pi / 2 * 2.0 ** torch.arange(frequencies), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., size]."""
        angles: Tensor = (x.unsqueeze(-1) * self.angles_F).flatten(-2)  # type: ignore[operator]
        return torch.cat([x, angles.sin(), angles.cos()], dim=-1)
