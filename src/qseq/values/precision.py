"""Values are never computed in half precision: near 1, bfloat16 has steps of .004, too coarse for a Bellman error."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32; float64 stays float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
