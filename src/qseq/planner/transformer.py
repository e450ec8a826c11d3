"""A small transformer over the states of a plan, told the level of noise at each block.

DiT (Peebles and Xie 2023, section 3.2): the level sets shift, scale and gate of every block ("adaLN-Zero").

Legend: B plans, H planned states, X entries of one planned state, D width.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from qseq.networks.attention import SelfAttention
from qseq.planner.features import SineFeatures


def sinusoids(positions_N: Tensor, dim: int) -> Tensor:
    """Sines and cosines of positions or levels, [N] -> [N, D] (Vaswani et al. 2017, section 3.5)."""
    half = dim // 2
    frequencies = torch.exp(torch.arange(half, device=positions_N.device) * (-math.log(1000.0) / max(half - 1, 1)))
    angles_NF = positions_N.float().unsqueeze(-1) * frequencies
    return functional.pad(torch.cat([angles_NF.sin(), angles_NF.cos()], dim=-1), (0, dim - 2 * half))


class LevelEmbedding(nn.Module):
    """Level of noise, int64 [B] or [1] -> [B, D] or [1, D]."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.layers = nn.Sequential(nn.Linear(dim, dim), nn.SiLU(), nn.Linear(dim, dim))

    def forward(self, levels_B: Tensor) -> Tensor:
        embedded: Tensor = self.layers(sinusoids(levels_B, self.dim))
        return embedded


class _Block(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = SelfAttention(dim, heads=heads, dim_head=dim // heads)
        self.feed_forward = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        self.modulation = nn.Linear(dim, 6 * dim)
        # Every block begins as the identity (adaLN-Zero).
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x_BHD: Tensor, level_BD: Tensor, inside_B11H: Tensor | None) -> Tensor:
        parts = self.modulation(functional.silu(level_BD)).unsqueeze(1).chunk(6, dim=-1)
        shift, scale, gate, shift_after, scale_after, gate_after = parts
        normed = functional.layer_norm(x_BHD, x_BHD.shape[-1:])
        attended = self.attention(torch.addcmul(shift, normed, 1 + scale), mask_TT=inside_B11H)
        x_BHD = torch.addcmul(x_BHD, gate, attended)
        normed = functional.layer_norm(x_BHD, x_BHD.shape[-1:])
        return torch.addcmul(x_BHD, gate_after, self.feed_forward(torch.addcmul(shift_after, normed, 1 + scale_after)))


class PlanTransformer(nn.Module):
    """Plans [B, H, X] -> features [B, H, D]; takes any horizon.

    Args:
        size: X.
        dim: D, a multiple of `heads`.
        frequencies: of the sines and cosines of every entry that are seen beside it.
    """

    def __init__(self, size: int, *, dim: int, depth: int, heads: int, frequencies: int = 0) -> None:
        super().__init__()
        self.dim = dim
        self.features = SineFeatures(size, frequencies)
        self.embed = nn.Linear(self.features.size, dim)
        self.known = nn.Parameter(torch.zeros(dim))
        self.level = LevelEmbedding(dim)
        self.blocks = nn.ModuleList(_Block(dim, heads) for _ in range(depth))

    def forward(
        self,
        plans_BHX: Tensor,
        levels_B: Tensor,
        *,
        known_BH: Tensor | None = None,
        inside_BH: Tensor | None = None,
        condition_BD: Tensor | None = None,
    ) -> Tensor:
        """`known_BH`: states that are given, not to be found. `inside_BH`: False for padding, which nobody looks at."""
        x_BHD = self.embed(self.features(plans_BHX)) + sinusoids(
            torch.arange(plans_BHX.shape[1], device=plans_BHX.device), self.dim
        )
        if known_BH is not None:
            x_BHD = x_BHD + known_BH.unsqueeze(-1) * self.known
        level_BD = self.level(levels_B)
        if condition_BD is not None:
            level_BD = level_BD + condition_BD
        mask_B11H = None if inside_BH is None else inside_BH[:, None, None]
        for block in self.blocks:
            x_BHD = block(x_BHD, level_BD, mask_B11H)
        out: Tensor = x_BHD
        return out
