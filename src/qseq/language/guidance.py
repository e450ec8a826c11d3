"""What values say to the policy's logits.

Legend: N states, K tokens of the support, V vocabulary.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def guide(
    logits_NV: Tensor, tokens_NK: Tensor, inside_NK: Tensor, q_NK: Tensor, value_N1: Tensor | None, beta: float
) -> Tensor:
    """`logits + beta * (Q - V)` within the support and minus infinity outside it. An infinite beta leaves the best one.

    Args:
        tokens_NK, inside_NK: the policy's own support, from `choose_support`.
        q_NK: values of its tokens, as returns.
        value_N1: value of the state; without one the mean of Q under the policy within the support. It shifts all
            tokens alike, so it changes no distribution: it keeps the numbers small.
    """
    logits_NK = logits_NV.gather(-1, tokens_NK).float()
    if math.isinf(beta):
        best_N1 = q_NK.masked_fill(~inside_NK, -torch.inf).argmax(-1, keepdim=True)
        inside_NK = torch.zeros_like(inside_NK).scatter(-1, best_N1, True)
        beta = 0.0
    if value_N1 is None:
        chances_NK = logits_NK.masked_fill(~inside_NK, -torch.inf).softmax(-1)
        value_N1 = (chances_NK * q_NK).sum(-1, keepdim=True)
    scores_NK = logits_NK + beta * (q_NK - value_N1)
    outside_NV = torch.full_like(logits_NV, -torch.inf, dtype=torch.float32)
    return outside_NV.scatter(-1, tokens_NK, scores_NK.masked_fill(~inside_NK, -torch.inf))
