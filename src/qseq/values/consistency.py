"""The soft consistency penalty of ConQUR (Su et al. 2020), a treatment of delusional bias.

Legend: B batch, P positions, K bins.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


def consistency_penalty(
    values_BPK: Tensor, chosen_BP: Tensor, *, weights_BP: Tensor, token_mask_PK: Tensor | None = None
) -> Tensor:
    """How far other bins surpass the bin that a target was made with: `sum over bins of [Q(bin) - Q(chosen)]_+`.

    A target that takes the maximum over bins assumes that the policy takes that bin there. The function that fits all
    targets may have no such policy: Q-learning then believes in values no policy of it has (delusional bias). So where
    the choice `chosen_BP` (int64) was assumed, the network that is trained should still prefer it (section 3.2 of the
    paper; ours is soft, and knows the choices of the target network at hand, not those of all earlier ones).

    Args:
        values_BPK: values of the network that is trained. A gradient flows.
        weights_BP: weight of each position in the mean, 0 where no choice was made.
        token_mask_PK: bool `[P, K]` or `[B, P, K]`, False where a bin does not exist.

    Returns:
        The weighted mean over positions, a scalar.
    """
    values_BPK = full_precision(values_BPK)
    excess_BPK = torch.relu(values_BPK - values_BPK.gather(-1, chosen_BP.unsqueeze(-1)))
    if token_mask_PK is not None:
        excess_BPK = excess_BPK.masked_fill(~token_mask_PK, 0.0)
    weights_BP = full_precision(weights_BP)
    return (excess_BPK.sum(-1) * weights_BP).sum() / weights_BP.sum().clamp_min(torch.finfo(torch.float32).tiny)
