"""Attention within the windows or the grids of a feature map, of a cost linear in the number of positions.

Legend: B batch, h x w positions of the map, N windows of the whole batch, T positions of a window, H heads, D width.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from qseq.networks.attention import FeedForward, attend, merge_heads, split_heads
from qseq.networks.dropout import Dropout
from qseq.networks.vision.rotary import AxialRotary

Partition = Literal["block", "grid"]
"""`block`: a window is `size` x `size` neighbours. `grid`: it is `size` x `size` positions spread evenly over the map
(Tu et al. 2022, section 3.2)."""


def partition(x_BhwD: Tensor, size: int, kind: Partition) -> Tensor:
    """`[B, h, w, D]` -> windows `[N, T, D]`, T = size * size, positions of a window row by row.

    Raises:
        ValueError: a side of the map is not a multiple of `size`.
    """
    batch, height, width, dim = x_BhwD.shape
    if height % size or width % size:
        raise ValueError(f"a feature map of {height} x {width} positions, expected sides that are multiples of {size}")
    if kind == "block":
        windows = x_BhwD.view(batch, height // size, size, width // size, size, dim).permute(0, 1, 3, 2, 4, 5)
    else:
        windows = x_BhwD.view(batch, size, height // size, size, width // size, dim).permute(0, 2, 4, 1, 3, 5)
    return windows.reshape(-1, size * size, dim)


def unpartition(x_NTD: Tensor, size: int, kind: Partition, height: int, width: int) -> Tensor:
    """Undoes `partition` of a map of `height` x `width` positions."""
    rows, columns, dim = height // size, width // size, x_NTD.shape[-1]
    windows = x_NTD.view(-1, rows, columns, size, size, dim)
    order = (0, 1, 3, 2, 4, 5) if kind == "block" else (0, 3, 1, 4, 2, 5)
    return windows.permute(order).reshape(-1, height, width, dim)


class GatedWindowAttention(nn.Module):
    """Multi-head self-attention of the positions of one window, with rotary positions and a gate on each head.

    Softmax weights add up to one, so a head must always read something; the gate, a sigmoid per position and head,
    lets it add nothing instead (Bondarenko et al. 2023, section 4.2). Gates start mostly open.
    """

    def __init__(self, dim: int, *, heads: int, dim_head: int, window_size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.rotary = AxialRotary(window_size, window_size, dim_head)
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_gate = nn.Linear(dim, heads)
        nn.init.zeros_(self.to_gate.weight)
        nn.init.constant_(self.to_gate.bias, 2.0)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x_NTD: Tensor) -> Tensor:
        """`[N, T, D]` -> the same shape; T is `window_size` squared."""
        query, key, value = (split_heads(x, self.heads) for x in self.to_qkv(x_NTD).chunk(3, dim=-1))
        dropout = self.dropout if self.training else 0.0
        attended_NHTE = attend(self.rotary(query), self.rotary(key), value, dropout=dropout)
        gate_NHT1 = self.to_gate(x_NTD).sigmoid().transpose(1, 2).unsqueeze(-1)
        out: Tensor = self.to_out(merge_heads(attended_NHTE * gate_NHT1))
        return out


class PartitionAttention(nn.Module):
    """Pre-norm transformer block over the windows of a map: `GatedWindowAttention`, then a feed-forward network."""

    def __init__(
        self, dim: int, *, kind: Partition, heads: int, dim_head: int, window_size: int, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.kind: Partition = kind
        self.window_size = window_size
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = GatedWindowAttention(
            dim, heads=heads, dim_head=dim_head, window_size=window_size, dropout=dropout
        )
        self.ff_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x_BhwD: Tensor) -> Tensor:
        """`[B, h, w, D]` -> the same shape."""
        _, height, width, _ = x_BhwD.shape
        x_NTD = partition(x_BhwD, self.window_size, self.kind)
        x_NTD = x_NTD + self.dropout(self.attention(self.attention_norm(x_NTD)))
        x_NTD = x_NTD + self.dropout(self.feed_forward(self.ff_norm(x_NTD)))
        return unpartition(x_NTD, self.window_size, self.kind, height, width)
