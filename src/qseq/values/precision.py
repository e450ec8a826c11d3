"""Values are never computed in half precision: near 1, bfloat16 has steps of .004, a fifth of what a discount removes."""

from __future__ import annotations

import torch
from torch import Tensor


def full_precision(tensor: Tensor) -> Tensor:
    """The tensor in float32; float64 stays float64."""
    return tensor if tensor.dtype == torch.float64 else tensor.float()
