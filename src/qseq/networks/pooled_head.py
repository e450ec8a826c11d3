"""The head of a decision that is one token: pooled observation tokens -> its bins.

Legend: B batch, K bins, O outputs of a bin, S observation tokens, D width.
"""

from __future__ import annotations

import math

from torch import Tensor, nn

from qseq.networks.attention import DecodingCache
from qseq.networks.decoder import Decoder
from qseq.networks.dueling import Dueling


class PooledHead(Decoder):
    """Mean of the observation tokens, a two-layer network, K values (Q-Transformer's single-action form).

    Cheaper than a decoder, whose start token does the pooling by attention. Arguments as in `ActionDecoder`.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_bins: int,
        ff_mult: int = 4,
        dueling: bool = False,
        outputs_per_bin: int = 1,
        initial_logit: float = 0.0,
        token_mask_AK: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.num_tokens, self.num_bins, self.outputs_per_bin = 1, num_bins, outputs_per_bin
        self.norm = nn.LayerNorm(dim)
        self.hidden = nn.Sequential(
            nn.Linear(dim, ff_mult * dim), nn.GELU(), nn.Linear(ff_mult * dim, dim), nn.LayerNorm(dim)
        )
        self.output = nn.Linear(dim, num_bins * outputs_per_bin)
        nn.init.normal_(self.output.weight, std=0.5 / math.sqrt(dim))
        nn.init.constant_(self.output.bias, initial_logit)
        self.dueling = (
            Dueling(
                dim,
                num_tokens=1,
                outputs_per_bin=outputs_per_bin,
                token_mask_AK=token_mask_AK,
                initial_logit=initial_logit,
            )
            if dueling
            else None
        )

    def new_cache(self) -> DecodingCache:
        return DecodingCache([])

    def forward(
        self,
        context_BSD: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        order_BA: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, 1, K]` (`[B, 1, K, outputs_per_bin]` for a categorical value); the prefix is empty."""
        if prefix_BP.shape[1]:
            raise ValueError(f"a prefix of {prefix_BP.shape[1]} tokens leaves none of 1 to score")
        hidden_B1D = self.hidden(self.norm(context_BSD.mean(1, keepdim=True)))
        logits_B1KO = self.output(hidden_B1D).view(context_BSD.shape[0], 1, self.num_bins, self.outputs_per_bin)
        if self.dueling is not None:
            logits_B1KO = self.dueling(hidden_B1D, logits_B1KO, 0)
        if cache is not None:
            cache.length = 1
        out: Tensor = logits_B1KO.squeeze(-1) if self.outputs_per_bin == 1 else logits_B1KO
        return out
