"""Dropout whose random numbers are cheap on a CPU.

Torch's own draws one Bernoulli variable an element: seven times the time of the addition it guards. Here sixteen random
bits decide an element, four elements to a draw of the generator, so a probability is rounded to a multiple of 2^-16.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

_LEVELS = 1 << 16
_WORD_LOW = -(1 << 63)


class Dropout(nn.Module):
    """In training zeroes each element with probability `probability` and scales the others up (Srivastava et al. 2014).

    Reads torch's default generator, so seeding and resuming work as with `torch.nn.Dropout`.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"dropout: found {probability}, expected a probability in [0, 1)")
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return dropout(x, self.probability) if self.training else x

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


def dropout(x: Tensor, probability: float) -> Tensor:
    """`x` with each element zeroed with the given probability, the others divided by what remains."""
    if probability == 0.0:
        return x
    if x.device.type != "cpu":
        return functional.dropout(x, probability)
    words = torch.empty((x.numel() + 3) // 4, dtype=torch.int64).random_(_WORD_LOW, None)
    bits = words.view(torch.int16)[: x.numel()].view(x.shape)
    dropped = round(probability * _LEVELS)
    # Compared straight into floating numbers: by way of booleans it takes several times as long.
    scale = torch.ge(bits, dropped - _LEVELS // 2, out=torch.empty_like(x, memory_format=torch.contiguous_format))
    return x * scale.mul_(_LEVELS / (_LEVELS - dropped))
