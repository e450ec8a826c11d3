"""What decoding asks of a network's head.

Legend: B batch, A action tokens of a decision, P tokens of a prefix, K bins, S observation tokens, D width.
"""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor, nn

from qseq.networks.attention import DecodingCache


class Decoder(nn.Module):
    """Scores the bins of each token of a decision given the tokens before it."""

    num_tokens: int
    num_bins: int

    @abstractmethod
    def new_cache(self) -> DecodingCache:
        """An empty cache for one decision of each row."""

    @abstractmethod
    def forward(
        self,
        context_BSD: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        order_BA: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, P + 1, K, ...]` for a prefix (int64) of P tokens, P from 0 to A - 1.

        With a cache only those of positions not yet decoded come back. `order_BA` (int64) says which token each
        position decides, where the head can.
        """
