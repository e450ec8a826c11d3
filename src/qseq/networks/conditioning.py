"""How instructions condition a transformer over observation tokens.

Legend: B batch, S tokens, D width.
"""

from __future__ import annotations

from torch import Tensor, nn

from qseq.networks.attention import CrossAttention
from qseq.networks.dropout import Dropout
from qseq.networks.text import Instruction, TextConfig
from qseq.networks.vision import FiLM


class Conditioning(nn.Module):
    """Stands before a transformer block: the instruction scales and shifts the tokens (FiLM, Perez et al. 2018), and
    they attend to its words. Either starts as, or close to, the identity.

    Args:
        config: which of the two.
    """

    def __init__(self, dim: int, config: TextConfig, *, heads: int, dim_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.film = FiLM(dim, dim, channel_axis=-1) if config.film else None
        self.norm = nn.LayerNorm(dim) if config.cross_attention else None
        self.attention = (
            CrossAttention(dim, heads=heads, dim_head=dim_head, dropout=dropout) if config.cross_attention else None
        )
        self.dropout = Dropout(dropout)

    def forward(self, x_BSD: Tensor, instruction: Instruction) -> Tensor:
        """`[B, S, D]` -> the same shape."""
        if self.film is not None:
            x_BSD = self.film(x_BSD, instruction.summary_BD)
        if self.attention is not None and self.norm is not None:
            tokens_BWD, present_BW = instruction.tokens()
            attended = self.attention(self.norm(x_BSD), tokens_BWD, present_BS=present_BW)
            x_BSD = x_BSD + self.dropout(attended)
        return x_BSD
