"""Autoregressive decoder over the action tokens of one decision.

Legend: B batch, A action tokens of a decision, P tokens of a given prefix, T positions, K bins, S observation tokens,
D width, X width of a query, a key and a value of all heads.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from qseq.networks.attention import DecodingCache, LayerCache, TransformerBlock
from qseq.networks.decoder import Decoder
from qseq.networks.dueling import Dueling
from qseq.networks.ordering import identity_order, in_order


class ActionDecoder(Decoder):
    """Scores every bin of the next action token given the observation and the tokens before it.

    The decision is the sequence (start, a_1, ..., a_A); position j sees start and a_1..a_j and scores a_{j+1}
    (Q-Transformer, Chebotar et al. 2023, section 4.1). Every (token, bin) has an embedding of its own. With `tied`, the
    scores are products with those same embeddings, in the same order of bins.

    Args:
        tied: score bins with their embeddings.
        dueling: score bins as the value of the prefix plus centred advantages.
        any_order: tokens may be decided in any order. Whatever belongs to a token (embeddings, outputs) goes where the
            token goes, and each position is told which token it has seen last and which it is to score. What a prefix
            is worth does not depend on the order of the tokens still open, so they are not told.
        token_mask_AK: bool, False where a bin does not exist; read by the dueling output.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_tokens: int,
        num_bins: int,
        depth: int,
        heads: int,
        dim_head: int,
        ff_mult: int = 4,
        dropout: float = 0.0,
        tied: bool = False,
        dueling: bool = False,
        any_order: bool = False,
        outputs_per_bin: int = 1,
        initial_logit: float = 0.0,
        token_mask_AK: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.num_bins = num_bins
        self.outputs_per_bin = outputs_per_bin
        self.tied = tied
        self.any_order = any_order
        self.start_D = nn.Parameter(torch.randn(dim) * 0.02)
        self.position_AD = nn.Parameter(torch.randn(num_tokens, dim) * 0.02)
        self.bin_embedding_AKD = nn.Parameter(torch.randn(num_tokens, num_bins, dim) * (0.02 if tied else 0.3))
        if any_order:
            self.seen_AD = nn.Parameter(torch.randn(num_tokens, dim) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads=heads, dim_head=dim_head, ff_mult=ff_mult, dropout=dropout, cross=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        if not tied:
            self.output_ADK = nn.Parameter(torch.randn(num_tokens, dim, num_bins * outputs_per_bin) * 0.5 * dim**-0.5)
        self.output_bias_AK = nn.Parameter(torch.full((num_tokens, num_bins * outputs_per_bin), initial_logit))
        self.dueling = (
            Dueling(
                dim,
                num_tokens=num_tokens,
                outputs_per_bin=outputs_per_bin,
                token_mask_AK=token_mask_AK,
                initial_logit=initial_logit,
            )
            if dueling
            else None
        )
        self._qkv_of: tuple[Tensor, Tensor] | None = None

    @torch.no_grad()
    def tabulate(self) -> None:
        """Note what the first block's self-attention projects each bin of each token to, and the start.

        That depends on nothing else, so decoding need not read these weights. For weights that stay as they are; a
        decoder of any order would need a table for each place that a token may have.
        """
        if self.any_order or not self.blocks:
            return
        block = cast(TransformerBlock, self.blocks[0])
        inputs_AKD = self.bin_embedding_AKD[:-1] + self.position_AD[1:, None]
        start_D = self.start_D + self.position_AD[0]
        to_qkv, norm = block.self_attention.to_qkv, block.self_norm
        self._qkv_of = to_qkv(norm(start_D)), to_qkv(norm(inputs_AKD))

    def new_cache(self) -> DecodingCache:
        return DecodingCache([LayerCache() for _ in self.blocks])

    def forward(
        self,
        context_BSD: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        order_BA: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, P + 1, K]` (`[B, P + 1, K, outputs_per_bin]` for a categorical head).

        `prefix_BP` (int64) holds the first P tokens, P from 0 to A - 1. With a cache the context must be the one the
        cache was filled with, and only the logits of positions not yet decoded come back. `order_BA` (int64, needs
        `any_order`) says which token each position decides; without it they come in their own order.
        """
        if order_BA is None and self.any_order:
            order_BA = identity_order(self.num_tokens, prefix_BP.shape[0], prefix_BP.device)
        first = cache.length if cache is not None else 0
        return self.score(self.hidden(context_BSD, prefix_BP, cache, order_BA), first, order_BA)

    def hidden(
        self,
        context_BSD: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        order_BA: Tensor | None = None,
    ) -> Tensor:
        """What `score` reads, `[B, P + 1, D]`; position 0 has seen the observation only, no token."""
        batch, prefix_length = prefix_BP.shape
        if prefix_length >= self.num_tokens:
            raise ValueError(f"a prefix of {prefix_length} tokens leaves none of {self.num_tokens} to score")
        first = cache.length if cache is not None else 0
        x_BTD = self._embed(prefix_BP, first, batch, order_BA)
        qkv_BTX = self._first_qkv(prefix_BP, first)
        for index, block in enumerate(self.blocks):
            layer_cache = cache.layers[index] if cache is not None else None
            x_BTD = block(x_BTD, context_BSD, causal=True, cache=layer_cache, qkv_BTX=None if index else qkv_BTX)
        if cache is not None:
            cache.length = prefix_length + 1
        out: Tensor = self.norm(x_BTD)
        return out

    def score(self, hidden_BTD: Tensor, first: int = 0, order_BA: Tensor | None = None) -> Tensor:
        """Logits of positions `first`, `first + 1`, ..."""
        if order_BA is None:
            return self._score_tokens(hidden_BTD, first)
        # Laid out by token, so that no row needs a copy of the output weights of its own.
        tokens_BT = order_BA[:, first : first + hidden_BTD.shape[1]]
        by_token_BAD = hidden_BTD.new_zeros(hidden_BTD.shape[0], self.num_tokens, hidden_BTD.shape[-1])
        by_token_BAD = by_token_BAD.scatter(1, tokens_BT[..., None].expand_as(hidden_BTD), hidden_BTD)
        return in_order(self._score_tokens(by_token_BAD, 0), tokens_BT)

    def _score_tokens(self, hidden_BTD: Tensor, first: int) -> Tensor:
        last = first + hidden_BTD.shape[1]
        weight_TDK = self.bin_embedding_AKD[first:last].transpose(1, 2) if self.tied else self.output_ADK[first:last]
        logits = torch.einsum("btd,tdk->btk", hidden_BTD, weight_TDK) + self.output_bias_AK[first:last]
        if self.dueling is None and self.outputs_per_bin == 1:
            return logits
        logits_BTKO = logits.view(*logits.shape[:-1], self.num_bins, self.outputs_per_bin)
        if self.dueling is not None:
            logits_BTKO = self.dueling(hidden_BTD, logits_BTKO, first)
        return logits_BTKO.squeeze(-1) if self.outputs_per_bin == 1 else logits_BTKO

    def _embed(self, prefix_BP: Tensor, first: int, batch: int, order_BA: Tensor | None) -> Tensor:
        """Inputs of positions `first` to P: position 0 is the start token, position j > 0 the embedding of a_j."""
        prefix_length = prefix_BP.shape[1]
        fresh = slice(max(first - 1, 0), prefix_length)
        if order_BA is None:
            seen_P = torch.arange(prefix_length, device=prefix_BP.device)
            position_TD = self.position_AD[first : prefix_length + 1]
        else:
            seen_P = order_BA[:, :prefix_length]
            position_TD = nn.functional.embedding(order_BA[:, first : prefix_length + 1], self.position_AD)
        new_tokens_BP = (prefix_BP + seen_P * self.num_bins)[:, fresh]
        embedded_BTD = nn.functional.embedding(new_tokens_BP, self.bin_embedding_AKD.flatten(0, 1))
        if order_BA is not None:
            embedded_BTD = embedded_BTD + nn.functional.embedding(order_BA[:, fresh], self.seen_AD)
        if first == 0:
            embedded_BTD = torch.cat((self.start_D.to(embedded_BTD.dtype).expand(batch, 1, -1), embedded_BTD), dim=1)
        return embedded_BTD + position_TD

    def _first_qkv(self, prefix_BP: Tensor, first: int) -> Tensor | None:
        """What the first block projects the inputs of positions `first` to P to, where that was noted."""
        if self._qkv_of is None:
            return None
        start_X, table_AKX = self._qkv_of
        row_of_token_P = torch.arange(prefix_BP.shape[1], device=prefix_BP.device) * self.num_bins
        new_rows_BP = (prefix_BP + row_of_token_P)[:, max(first - 1, 0) :]
        qkv_BTX = nn.functional.embedding(new_rows_BP, table_AKX.flatten(0, 1))
        return qkv_BTX if first else torch.cat((start_X.expand(len(prefix_BP), 1, -1), qkv_BTX), dim=1)
