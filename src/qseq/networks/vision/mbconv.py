"""The convolutional part of a MaxViT block.

Legend: B batch, D features, h x w positions.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional


class SqueezeExcitation(nn.Module):
    """Every feature times a gate in (0, 1) that depends on the means of all features (Hu et al. 2018)."""

    def __init__(self, dim: int, *, shrinkage_rate: float) -> None:
        super().__init__()
        hidden = max(1, int(dim * shrinkage_rate))
        self.gate = nn.Sequential(nn.Linear(dim, hidden), nn.SiLU(), nn.Linear(hidden, dim), nn.Sigmoid())

    def forward(self, x_BDhw: Tensor) -> Tensor:
        gate_BD: Tensor = self.gate(x_BDhw.mean((2, 3)))
        return x_BDhw * gate_BD[:, :, None, None]


class DropSample(nn.Module):
    """In training, zeroes whole samples with probability `rate` and scales up the others (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x_BDhw: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x_BDhw
        kept_B111 = torch.rand(x_BDhw.shape[0], 1, 1, 1, device=x_BDhw.device) >= self.rate
        return x_BDhw * (kept_B111.to(x_BDhw.dtype) / (1 - self.rate))


class PointwiseConv(nn.Conv2d):
    """A 1 x 1 convolution as the matrix product it is.

    In channels-last memory, where no copy is made, torch's convolution takes twice the time on one thread of a CPU.
    """

    def forward(self, x_BDhw: Tensor) -> Tensor:
        out_BhwD = functional.linear(x_BDhw.permute(0, 2, 3, 1), self.weight.flatten(1), self.bias)
        return out_BhwD.permute(0, 3, 1, 2)


class MBConv(nn.Module):
    """Inverted bottleneck with squeeze-excitation (MobileNetV2, Sandler et al. 2018), pre-norm and residual as in
    MaxViT (Tu et al. 2022, appendix A.1).

    Args:
        stride: 2 halves the map; the residual path is then pooled and projected.
        make_norm: number of features -> norm over `[B, D, h, w]`.
    """

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        *,
        stride: int,
        expansion_rate: float,
        shrinkage_rate: float,
        dropout: float,
        make_norm: Callable[[int], nn.Module],
    ) -> None:
        super().__init__()
        hidden = int(dim_out * expansion_rate)
        self.residual = nn.Sequential(
            make_norm(dim_in),
            PointwiseConv(dim_in, hidden, 1),
            make_norm(hidden),
            nn.GELU(),
            nn.Conv2d(hidden, hidden, 3, stride=stride, padding=1, groups=hidden),
            make_norm(hidden),
            nn.GELU(),
            SqueezeExcitation(hidden, shrinkage_rate=shrinkage_rate),
            PointwiseConv(hidden, dim_out, 1),
            DropSample(dropout),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride > 1 or dim_in != dim_out:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.shortcut = nn.Sequential(pool, PointwiseConv(dim_in, dim_out, 1))

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """`[B, dim_in, h, w]` -> `[B, dim_out, h / stride, w / stride]`."""
        out: Tensor = self.shortcut(x_BDhw) + self.residual(x_BDhw)
        return out
