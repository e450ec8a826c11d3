"""Two critics: decoders that share what they see and nothing else.

Legend: B batch, A action tokens of a decision, P tokens of a prefix, K bins, C critics, S observation tokens, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from qseq.networks.attention import DecodingCache
from qseq.networks.decoder import Decoder


class TwinDecoder(Decoder):
    """Decoders side by side (clipped double Q-learning, Fujimoto et al. 2018, section 4.2).

    Each is initialised by itself and scores by itself; their logits lie side by side in the dimension after the bins,
    where `LeastOf` takes the smaller value, and trains each of them on its own prediction. The encoder is shared.
    """

    def __init__(self, critics: Sequence[Decoder]) -> None:
        super().__init__()
        self.critics = nn.ModuleList(critics)
        self.num_tokens: int = critics[0].num_tokens
        self.num_bins: int = critics[0].num_bins

    def new_cache(self) -> DecodingCache:
        caches = [cast(Decoder, critic).new_cache() for critic in self.critics]
        return DecodingCache([layer for cache in caches for layer in cache.layers])

    def forward(
        self,
        context_BSD: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        order_BA: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, P + 1, K, C, ...]`; see `ActionDecoder`."""
        parts: list[DecodingCache | None] = [None] * len(self.critics)
        if cache is not None:
            depth = len(cache.layers) // len(self.critics)
            parts = [
                DecodingCache(cache.layers[index * depth : (index + 1) * depth], cache.length)
                for index in range(len(self.critics))
            ]
        logits = [
            critic(context_BSD, prefix_BP, part, order_BA) for critic, part in zip(self.critics, parts, strict=True)
        ]
        if cache is not None:
            cache.length = prefix_BP.shape[1] + 1
        return torch.stack(logits, dim=3)
