"""Attention and transformer blocks with a key/value cache.

Legend: B batch, T query positions, S context positions, H heads, D model width, E width of one head.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from qseq.networks.dropout import Dropout
from qseq.networks.dropout import dropout as drop

_SHORT_CONTEXT = 32


@dataclass
class LayerCache:
    """Keys and values one block has seen so far: of its own tokens, which grow, and of its context, which does not."""

    self_keys_BHTE: Tensor | None = None
    self_values_BHTE: Tensor | None = None
    context_keys_BHSE: Tensor | None = None
    context_values_BHSE: Tensor | None = None

    def select(self, rows: Tensor) -> LayerCache:
        """The cache of other rows: row i is what row `rows[i]` (int64) was."""
        kept = (self.self_keys_BHTE, self.self_values_BHTE, self.context_keys_BHSE, self.context_values_BHSE)
        return LayerCache(*(None if tensor is None else tensor.index_select(0, rows) for tensor in kept))


@dataclass
class DecodingCache:
    """One `LayerCache` per block, and how many tokens have been decoded."""

    layers: list[LayerCache]
    length: int = field(default=0)

    def select(self, rows: Tensor) -> DecodingCache:
        """The cache of other rows, such as the prefixes a beam keeps: row i is what row `rows[i]` (int64) was."""
        return DecodingCache([layer.select(rows) for layer in self.layers], self.length)


def split_heads(x_BTD: Tensor, heads: int) -> Tensor:
    """[B, T, H*E] -> [B, H, T, E]."""
    batch, length, _ = x_BTD.shape
    return x_BTD.view(batch, length, heads, -1).transpose(1, 2)


def merge_heads(x_BHTE: Tensor) -> Tensor:
    """[B, H, T, E] -> [B, T, H*E]."""
    return x_BHTE.transpose(1, 2).flatten(2)


def attend(
    query_BHTE: Tensor,
    key_BHSE: Tensor,
    value_BHSE: Tensor,
    *,
    mask_TS: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Scaled dot-product attention, fused wherever fusing is faster.

    On a CPU plain products are faster in bfloat16 when the context is a few tokens (in training by up to eight times;
    in float32 the fused kernel is up to three times as fast), and with dropout, for which a CPU has no fused kernel. A
    program that is exported goes elsewhere.
    """
    short = query_BHTE.dtype == torch.bfloat16 and key_BHSE.shape[2] <= _SHORT_CONTEXT
    if torch.compiler.is_exporting() or query_BHTE.device.type != "cpu" or not (short or dropout):
        return functional.scaled_dot_product_attention(
            query_BHTE, key_BHSE, value_BHSE, attn_mask=mask_TS, dropout_p=dropout, is_causal=causal
        )
    scores_BHTS = (query_BHTE @ key_BHSE.transpose(-1, -2)) * query_BHTE.shape[-1] ** -0.5
    if causal:
        mask_TS = torch.ones(scores_BHTS.shape[-2:], dtype=torch.bool).tril()
    if mask_TS is not None:
        scores_BHTS = scores_BHTS.masked_fill(~mask_TS, -torch.inf)
    weights_BHTS = drop(scores_BHTS.softmax(-1), dropout)
    return weights_BHTS.to(value_BHSE.dtype) @ value_BHSE


class SelfAttention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017, section 3.2), causal or not.

    Query, key and value come from one matrix product.
    """

    def __init__(self, dim: int, *, heads: int, dim_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_qkv = nn.Linear(dim, 3 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        *,
        causal: bool = False,
        mask_TT: Tensor | None = None,
        cache: LayerCache | None = None,
        qkv_BTX: Tensor | None = None,
    ) -> Tensor:
        """`mask_TT` is boolean, True where a query (row) may look. With a cache, `x_BTD` holds only the new tokens.

        `qkv_BTX` (X = 3 * H * E) is what `to_qkv` makes of `x_BTD`, where that is known.
        """
        qkv_BTX = self.to_qkv(x_BTD) if qkv_BTX is None else qkv_BTX
        query, key, value = (split_heads(x, self.heads) for x in qkv_BTX.chunk(3, dim=-1))
        if cache is not None:
            if cache.self_keys_BHTE is not None and cache.self_values_BHTE is not None:
                key = torch.cat((cache.self_keys_BHTE, key), dim=2)
                value = torch.cat((cache.self_values_BHTE, value), dim=2)
                new, seen = query.shape[2], key.shape[2]
                # Without this mask `is_causal` would align the new queries with the oldest keys.
                if causal and new > 1:
                    mask_TT = torch.ones(new, seen, dtype=torch.bool, device=key.device).tril(seen - new)
                causal = False
            cache.self_keys_BHTE, cache.self_values_BHTE = key, value
        dropout = self.dropout if self.training else 0.0
        causal = causal and mask_TT is None and query.shape[2] > 1
        attended = attend(query, key, value, mask_TS=mask_TT, causal=causal, dropout=dropout)
        out: Tensor = self.to_out(merge_heads(attended))
        return out


class CrossAttention(nn.Module):
    """Attention of token positions to a fixed context, whose keys and values are computed once when cached."""

    def __init__(self, dim: int, *, heads: int, dim_head: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(
        self,
        x_BTD: Tensor,
        context_BSD: Tensor,
        *,
        present_BS: Tensor | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """`present_BS` is boolean, False where a shorter context of the batch has nothing to look at."""
        query = split_heads(self.to_q(x_BTD), self.heads)
        if cache is not None and cache.context_keys_BHSE is not None and cache.context_values_BHSE is not None:
            key, value = cache.context_keys_BHSE, cache.context_values_BHSE
        else:
            key, value = (split_heads(x, self.heads) for x in self.to_kv(context_BSD).chunk(2, dim=-1))
            if cache is not None:
                cache.context_keys_BHSE, cache.context_values_BHSE = key, value
        dropout = self.dropout if self.training else 0.0
        mask = None if present_BS is None else present_BS[:, None, None]
        out: Tensor = self.to_out(merge_heads(attend(query, key, value, mask_TS=mask, dropout=dropout)))
        return out


class FeedForward(nn.Sequential):
    """Position-wise two-layer network (Vaswani et al. 2017, section 3.3) with GELU."""

    def __init__(self, dim: int, *, mult: int = 4) -> None:
        super().__init__(nn.Linear(dim, mult * dim), nn.GELU(), nn.Linear(mult * dim, dim))


class TransformerBlock(nn.Module):
    """Pre-norm block: self-attention, cross-attention when `cross` is set, feed-forward."""

    def __init__(
        self, dim: int, *, heads: int, dim_head: int, ff_mult: int = 4, dropout: float = 0.0, cross: bool = False
    ) -> None:
        super().__init__()
        self.self_norm = nn.LayerNorm(dim)
        self.self_attention = SelfAttention(dim, heads=heads, dim_head=dim_head, dropout=dropout)
        self.cross_norm = nn.LayerNorm(dim) if cross else None
        self.cross_attention = CrossAttention(dim, heads=heads, dim_head=dim_head, dropout=dropout) if cross else None
        self.ff_norm = nn.LayerNorm(dim)
        self.feed_forward = FeedForward(dim, mult=ff_mult)
        self.dropout = Dropout(dropout)

    def forward(
        self,
        x_BTD: Tensor,
        context_BSD: Tensor | None = None,
        *,
        causal: bool = False,
        mask_TT: Tensor | None = None,
        cache: LayerCache | None = None,
        qkv_BTX: Tensor | None = None,
    ) -> Tensor:
        attended = self.self_attention(
            self.self_norm(x_BTD), causal=causal, mask_TT=mask_TT, cache=cache, qkv_BTX=qkv_BTX
        )
        x_BTD = x_BTD + self.dropout(attended)
        if self.cross_attention is not None and self.cross_norm is not None:
            if context_BSD is None:
                raise ValueError("a block with cross-attention needs a context")
            x_BTD = x_BTD + self.dropout(self.cross_attention(self.cross_norm(x_BTD), context_BSD, cache=cache))
        out: Tensor = x_BTD + self.dropout(self.feed_forward(self.ff_norm(x_BTD)))
        return out
