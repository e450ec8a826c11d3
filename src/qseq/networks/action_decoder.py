"""Autoregressive decoder over the action tokens of one decision.

Legend: B batch, A action tokens of a decision, P tokens of a given prefix, K bins, S observation tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qseq.networks.attention import DecodingCache, LayerCache, TransformerBlock


class ActionDecoder(nn.Module):
    """Scores every bin of the next action token given the observation and the tokens before it.

    The decision is the sequence (start, a_1, ..., a_A); position j sees start and a_1..a_j and scores a_{j+1}
    (Q-Transformer, Chebotar et al. 2023, section 4.1). Every (token position, bin) has an embedding of its own.
    With `tied`, the scores are products with those same embeddings, in the same order of bins.
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
        outputs_per_bin: int = 1,
        initial_logit: float = 0.0,
    ) -> None:
        super().__init__()
        if tied and outputs_per_bin != 1:
            raise ValueError("a tied output gives one score per bin, so it cannot carry a categorical value head")
        self.num_tokens = num_tokens
        self.num_bins = num_bins
        self.outputs_per_bin = outputs_per_bin
        self.tied = tied
        self.start_D = nn.Parameter(torch.randn(dim) * 0.02)
        self.position_AD = nn.Parameter(torch.randn(num_tokens, dim) * 0.02)
        self.bin_embedding_AKD = nn.Parameter(torch.randn(num_tokens, num_bins, dim) * (0.02 if tied else 0.3))
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads=heads, dim_head=dim_head, ff_mult=ff_mult, dropout=dropout, cross=True)
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(dim)
        if not tied:
            self.output_ADK = nn.Parameter(torch.randn(num_tokens, dim, num_bins * outputs_per_bin) * 0.5 * dim**-0.5)
        self.output_bias_AK = nn.Parameter(torch.full((num_tokens, num_bins * outputs_per_bin), initial_logit))

    def new_cache(self) -> DecodingCache:
        return DecodingCache([LayerCache() for _ in self.blocks])

    def forward(self, context_BSD: Tensor, prefix_BP: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """Logits `[B, P + 1, K]` (`[B, P + 1, K, outputs_per_bin]` for a categorical head).

        `prefix_BP` (int64) holds the first P tokens, P from 0 to A - 1. With a cache the context must be the one the
        cache was filled with, and only the logits of positions not yet decoded come back.
        """
        first = cache.length if cache is not None else 0
        return self.score(self.hidden(context_BSD, prefix_BP, cache), first)

    def hidden(self, context_BSD: Tensor, prefix_BP: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """What `score` reads, `[B, P + 1, D]`; position 0 has seen the observation only, no token."""
        batch, prefix_length = prefix_BP.shape
        if prefix_length >= self.num_tokens:
            raise ValueError(f"a prefix of {prefix_length} tokens leaves none of {self.num_tokens} to score")
        first = cache.length if cache is not None else 0
        x_BTD = self._embed(prefix_BP, first, batch)
        for index, block in enumerate(self.blocks):
            layer_cache = cache.layers[index] if cache is not None else None
            x_BTD = block(x_BTD, context_BSD, causal=True, cache=layer_cache)
        if cache is not None:
            cache.length = prefix_length + 1
        out: Tensor = self.norm(x_BTD)
        return out

    def score(self, hidden_BTD: Tensor, first: int = 0) -> Tensor:
        """Logits of positions `first`, `first + 1`, ..."""
        last = first + hidden_BTD.shape[1]
        weight_TDK = self.bin_embedding_AKD[first:last].transpose(1, 2) if self.tied else self.output_ADK[first:last]
        logits = torch.einsum("btd,tdk->btk", hidden_BTD, weight_TDK) + self.output_bias_AK[first:last]
        if self.outputs_per_bin == 1:
            return logits
        return logits.view(*logits.shape[:-1], self.num_bins, self.outputs_per_bin)

    def _embed(self, prefix_BP: Tensor, first: int, batch: int) -> Tensor:
        """Inputs of positions `first` to P: position 0 is the start token, position j > 0 the embedding of a_j."""
        prefix_length = prefix_BP.shape[1]
        offsets_P = torch.arange(prefix_length, device=prefix_BP.device) * self.num_bins
        new_tokens_BP = (prefix_BP + offsets_P)[:, max(first - 1, 0) :]
        embedded_BTD = nn.functional.embedding(new_tokens_BP, self.bin_embedding_AKD.flatten(0, 1))
        if first == 0:
            embedded_BTD = torch.cat((self.start_D.to(embedded_BTD.dtype).expand(batch, 1, -1), embedded_BTD), dim=1)
        return embedded_BTD + self.position_AD[first : prefix_length + 1]
