"""The conservative regulariser (Q-Transformer, Chebotar et al. 2023, section 4.2).

Legend: B batch, A action tokens of one decision, K bins of a token.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .precision import full_precision


def conservative_penalty(
    values_BAK: Tensor,
    taken_BA: Tensor,
    *,
    floor: float = 0.0,
    token_mask_AK: Tensor | None = None,
    behaviour_BAK: Tensor | None = None,
    token_weights_BA: Tensor | None = None,
) -> Tensor:
    """Mean of `(value - floor)^2` over the bins that were not taken: pulls what the data lack to the least return.

    It acts on values, not on logits (a logit of 0 would pull Q to the middle of its range), and it is a mean over bins,
    tokens and rows, so its strength against the temporal-difference loss depends on no size. The objective applies the
    factor 1/2 and the weight.

    Args:
        values_BAK: values of every bin.
        taken_BA: int64, the bins taken.
        floor: the least possible return.
        token_mask_AK: True where a bin exists; None when all do. Also `[B, A, K]`.
        behaviour_BAK: probabilities of the behaviour policy; the other bins then have weights `(1 - probability) / Z`.
            Without them all weights are equal.
        token_weights_BA: weight of each token in the mean, 0 for tokens beyond the end of an episode.

    Returns:
        A scalar with a gradient.
    """
    values_BAK = full_precision(values_BAK)
    if token_mask_AK is not None:
        # Before squaring: bins that do not exist may hold minus infinity, whose gradient would be NaN.
        values_BAK = values_BAK.masked_fill(~token_mask_AK, floor)
    return off_data_mean(
        (values_BAK - floor).square(),
        taken_BA,
        token_mask_AK=token_mask_AK,
        behaviour_BAK=behaviour_BAK,
        token_weights_BA=token_weights_BA,
    )


def off_data_mean(
    penalties_BAK: Tensor,
    taken_BA: Tensor,
    *,
    token_mask_AK: Tensor | None = None,
    behaviour_BAK: Tensor | None = None,
    token_weights_BA: Tensor | None = None,
) -> Tensor:
    """Mean of a penalty over the bins that were not taken; `conservative_penalty` for any measure of distance.

    With the cross-entropy to the floor as the penalty, the regulariser acts in the same metric as a cross-entropy
    temporal-difference loss; the bin's value then still settles at `target * p / (p + weight / (K - 1))` for a bin that
    the data take with probability p, but without gradients that vanish as the value nears the floor.
    """
    penalties_BAK = full_precision(penalties_BAK)
    if token_mask_AK is not None:
        penalties_BAK = penalties_BAK.masked_fill(~token_mask_AK, 0.0)
    index_BA1 = taken_BA.unsqueeze(-1)
    if behaviour_BAK is None:
        others_BA = penalties_BAK.sum(-1) - penalties_BAK.gather(-1, index_BA1).squeeze(-1)
        if token_mask_AK is None:
            penalty_BA = others_BA / max(penalties_BAK.shape[-1] - 1, 1)
        else:
            penalty_BA = others_BA / (token_mask_AK.sum(-1) - 1).clamp_min(1)
    else:
        weights_BAK = (1.0 - full_precision(behaviour_BAK.detach())).clamp_min(0.0).scatter(-1, index_BA1, 0.0)
        if token_mask_AK is not None:
            weights_BAK = weights_BAK.masked_fill(~token_mask_AK, 0.0)
        normaliser_BA = weights_BAK.sum(-1).clamp_min(torch.finfo(weights_BAK.dtype).tiny)
        penalty_BA = (weights_BAK * penalties_BAK).sum(-1) / normaliser_BA
    if token_weights_BA is None:
        return penalty_BA.mean()
    token_weights_BA = full_precision(token_weights_BA)
    return (penalty_BA * token_weights_BA).sum() / token_weights_BA.sum().clamp_min(torch.finfo(torch.float32).tiny)
