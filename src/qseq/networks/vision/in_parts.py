"""What a tower computes for many images, a few of them at a time, so that what it needs inside exists for these only.

Legend: N images, D features, h x w positions of a map.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

_POSITIONS_AT_ONCE = 1024


def images_at_once(maps_NDhw: Tensor, stride: int = 1) -> int:
    """How many images a block that divides the sides of these maps by `stride` should see at a time, at least one.

    On a CPU few, at no loss: even one large map keeps a thread busy. A GPU would not be filled by them.
    """
    if maps_NDhw.device.type != "cpu":
        return len(maps_NDhw)
    positions = maps_NDhw.shape[2] * maps_NDhw.shape[3] // stride**2
    return max(1, _POSITIONS_AT_ONCE // positions)


def in_parts(block: Callable[..., Tensor], *tensors_N: Tensor | None, at_once: int, recompute: bool) -> Tensor:
    """`block(*tensors_N)`, computed for `at_once` images at a time.

    To `recompute` is to keep the inputs only and to compute the rest again on the way back, with the random numbers it
    had (Chen et al. 2016).

    Args:
        block: tensors with N first, the first of which there must be -> a tensor with N first. An image's result may
            depend on no other image.
    """
    assert tensors_N[0] is not None
    # Split, not sliced: the gradient of every slice would be a whole tensor, zero elsewhere.
    parts = [repeat(None) if tensor_N is None else torch.split(tensor_N, at_once) for tensor_N in tensors_N]
    results = []
    for part in zip(*parts, strict=False):  # the first ends it
        results.append(checkpoint(block, *part, use_reentrant=False) if recompute else block(*part))
    return torch.cat(results)
