"""How likely a network's logits make the tokens that were taken: what imitation minimises.

Legend: B batch, A action tokens of a decision, K bins.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def among_existing(logits_BAK: Tensor, token_mask_AK: Tensor | None) -> Tensor:
    """The logits with -inf where the mask (bool, `[A, K]` or `[B, A, K]`) says that a bin does not exist."""
    if token_mask_AK is None:
        return logits_BAK
    return logits_BAK.masked_fill(~token_mask_AK.to(logits_BAK.device), -torch.inf)


def negative_log_likelihood(logits_BAK: Tensor, tokens_BA: Tensor) -> Tensor:
    """Of each token (int64), in nats: `[B, A]`."""
    return functional.cross_entropy(logits_BAK.transpose(1, 2), tokens_BA, reduction="none")
