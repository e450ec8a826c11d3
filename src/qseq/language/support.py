"""Which tokens the policy itself would say: the only ones whose values are looked at.

Legend: N states, K tokens of the support, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from qseq.configuration import Fraction, NonNegativeInt


@dataclass(frozen=True, kw_only=True)
class SupportConfig:
    """The policy's own support in a state. A token must pass every one of these; the likeliest always does."""

    top_k: NonNegativeInt = 50
    """So many of the likeliest tokens; 0 takes all of them."""
    top_p: Fraction = 1.0
    """The fewest likeliest tokens whose probabilities reach this sum."""
    min_p: Fraction = 0.02
    """Tokens at least so likely as this share of the likeliest one (the rule of discrete BCQ, Fujimoto et al. 2019)."""

    @property
    def is_everything(self) -> bool:
        """Whether no token is ever left out."""
        return self.top_k == 0 and self.top_p >= 1.0 and self.min_p <= 0.0


@torch.no_grad()
def choose_support(logits_NV: Tensor, config: SupportConfig) -> tuple[Tensor, Tensor]:
    """The policy's support in each state, from its logits.

    Returns:
        tokens_NK: int64, the likeliest first; K is top_k, or V.
        inside_NK: bool, False where a token did not pass top_p or min_p.
    """
    count = min(config.top_k, logits_NV.shape[-1]) or logits_NV.shape[-1]
    top_NK, tokens_NK = logits_NV.float().topk(count, dim=-1)
    inside_NK = torch.isfinite(top_NK)
    if config.min_p > 0.0:
        inside_NK &= (top_NK - top_NK[:, :1]).exp() >= config.min_p
    if config.top_p < 1.0:
        # Of all tokens, not of the top k only: a share of the whole distribution.
        probabilities_NK = (top_NK - logits_NV.float().logsumexp(-1, keepdim=True)).exp()
        inside_NK &= probabilities_NK.cumsum(-1) - probabilities_NK < config.top_p
    inside_NK[:, 0] = True
    return tokens_NK, inside_NK
