"""Linear layers whose weights are whole numbers of eight bits: a quarter of the memory, nearly the same outputs.

Legend: O outputs, I inputs of a layer.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_LARGEST = 127

Module = TypeVar("Module", bound=nn.Module)


class Int8Linear(nn.Module):
    """A linear layer that keeps `round(weight / scale)` and one scale an output, the same for both signs.

    The largest weight of an output becomes 127 (Jacob et al. 2018, section 2, with a zero point of 0), so a weight is
    off by half a scale at most. Activations stay as they are.
    """

    weight_OI: Tensor
    scale_O: Tensor
    bias_O: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_OI = linear.weight.detach().float()
        scale_O = (weight_OI.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        whole_OI = (weight_OI / scale_O[:, None]).round().clamp(-_LARGEST, _LARGEST)
        self.register_buffer("weight_OI", whole_OI.to(torch.int8))
        self.register_buffer("scale_O", scale_O)
        self.register_buffer("bias_O", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """What the whole numbers stand for, `[O, I]`; other modules ask a linear layer for it."""
        return self.weight_OI.to(self.scale_O.dtype) * self.scale_O[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., I]` -> `[..., O]`."""
        # Scaled after the product: there are fewer outputs than weights.
        out = functional.linear(x, self.weight_OI.to(x.dtype)) * self.scale_O.to(x.dtype)
        return out if self.bias_O is None else out + self.bias_O.to(x.dtype)


def quantised(module: Module) -> Module:
    """A copy of a module, every `nn.Linear` in it an `Int8Linear`; whatever else it holds stays as it is."""
    module = copy.deepcopy(module)
    for name, part in list(module.named_modules()):
        if type(part) is nn.Linear:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, Int8Linear(part))
    return module
