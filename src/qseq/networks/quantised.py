"""Linear layers whose weights take fewer bytes, for nearly the same outputs: a half or a quarter of float32.

Legend: O outputs, I inputs of a layer.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

_LARGEST = 127
_FEW_ROWS = 16
# Torch's product of bfloat16 rows with eight-bit weights is written for these processors; elsewhere it is a plain loop.
_HAS_PRODUCT = torch.backends.cpu.get_cpu_capability().startswith("AVX")
_STEP = 16
"""Inputs that it reads at a time: it reads beyond the end of rows that are no multiple."""

Module = TypeVar("Module", bound=nn.Module)
Rounding = Literal["bfloat16", "int8"]


class Int8Linear(nn.Module):
    """A linear layer that keeps `round(weight / scale)` and one scale an output, the same for both signs.

    The largest weight of an output becomes 127 (Jacob et al. 2018, section 2, with a zero point of 0), so a weight is
    off by half a scale at most.

    Activations stay as they are, but with `quick`: few rows on a CPU, which take as long as reading the weights does,
    are multiplied with the whole numbers themselves, at several times the rate; eight bits of a number count there, in
    what comes in and out, too.
    """

    weight_OI: Tensor
    scale_O: Tensor
    ones_O: Tensor
    bias_O: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.quick = False
        weight_OI = linear.weight.detach().float()
        scale_O = (weight_OI.abs().amax(1) / _LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
        whole_OI = (weight_OI / scale_O[:, None]).round().clamp(-_LARGEST, _LARGEST)
        self.register_buffer("weight_OI", whole_OI.to(torch.int8))
        self.register_buffer("scale_O", scale_O)
        # For torch's product; the scales themselves would be rounded there.
        self.register_buffer("ones_O", torch.ones_like(scale_O, dtype=torch.bfloat16), persistent=False)
        self.register_buffer("bias_O", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """What the whole numbers stand for, `[O, I]`; other modules ask a linear layer for it."""
        return self.weight_OI.to(self.scale_O.dtype) * self.scale_O[:, None]

    def forward(self, x: Tensor) -> Tensor:
        """`[..., I]` -> `[..., O]`."""
        if self.quick and _can_multiply(x):
            rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
            product = torch.ops.aten._weight_int8pack_mm(rows, self.weight_OI, self.ones_O).view(*x.shape[:-1], -1)
        else:
            product = functional.linear(x, self.weight_OI.to(x.dtype))
        # Scaled after the product: there are fewer outputs than weights.
        out: Tensor = product.to(x.dtype) * self.scale_O.to(x.dtype)
        return out if self.bias_O is None else out + self.bias_O.to(x.dtype)


def _can_multiply(x: Tensor) -> bool:
    """Whether torch multiplies these rows with whole numbers, and fast."""
    few = x.device.type == "cpu" and 0 < x.numel() <= _FEW_ROWS * x.shape[-1]
    return few and _HAS_PRODUCT and x.shape[-1] % _STEP == 0


class BFloat16Linear(nn.Module):
    """A linear layer that keeps and multiplies bfloat16: eight bits of a number count, in what comes in and out, too.

    Half the bytes. Meant for batches of decisions, where the processor multiplies bfloat16; a CPU's product of a matrix
    and a vector, which a single decision is made of, gains nothing.
    """

    weight_OI: Tensor
    bias_O: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("weight_OI", linear.weight.detach().to(torch.bfloat16))
        self.register_buffer("bias_O", None if linear.bias is None else linear.bias.detach().clone())

    @property
    def weight(self) -> Tensor:
        """`[O, I]`; other modules ask a linear layer for it."""
        return self.weight_OI

    def forward(self, x: Tensor) -> Tensor:
        """`[..., I]` -> `[..., O]`, in the type that comes in."""
        rows = x.to(torch.bfloat16)
        if x.numel() == x.shape[-1]:
            # One row: torch's general product is slower than that of a matrix and a vector.
            product = torch.mv(self.weight_OI, rows.flatten()).view(*x.shape[:-1], -1)
        else:
            product = functional.linear(rows, self.weight_OI)
        out = product.to(x.dtype)
        return out if self.bias_O is None else out + self.bias_O.to(x.dtype)


_LAYERS: dict[Rounding, Callable[[nn.Linear], nn.Module]] = {"bfloat16": BFloat16Linear, "int8": Int8Linear}


def quantised(module: Module, weights: Rounding) -> Module:
    """A copy of a module, every `nn.Linear` in it one of these weights; whatever else it holds stays as it is."""
    module = copy.deepcopy(module)
    for name, part in list(module.named_modules()):
        if type(part) is nn.Linear:
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, _LAYERS[weights](part))
    return module
