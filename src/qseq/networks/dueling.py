"""Dueling outputs: the value of the prefix plus what each bin adds to it (Wang et al. 2016, equation 9).

Legend: B batch, T positions, A action tokens of a decision, K bins, O outputs of a bin, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def centred(advantages_ATKO: Tensor, token_mask_TK: Tensor | None = None) -> Tensor:
    """Advantages less their mean over the bins that exist, so that value and advantages are told apart.

    `[..., T, K, O]`; `token_mask_TK` is True where a bin exists, None when all do.
    """
    if token_mask_TK is None:
        return advantages_ATKO - advantages_ATKO.mean(-2, keepdim=True)
    exists_TK1 = token_mask_TK.unsqueeze(-1)
    total = advantages_ATKO.masked_fill(~exists_TK1, 0.0).sum(-2, keepdim=True)
    return advantages_ATKO - total / exists_TK1.sum(-2, keepdim=True)


class Dueling(nn.Module):
    """Turns the scores of bins into advantages and adds the value of the prefix, a projection of its own per token.

    Works on logits, whatever they mean: of a histogram each atom has a value and advantages.

    Args:
        token_mask_AK: bool, False where a bin does not exist: it does not count in the mean.
        initial_logit: where values start.
    """

    token_mask_AK: Tensor | None

    def __init__(
        self, dim: int, *, num_tokens: int, outputs_per_bin: int, token_mask_AK: Tensor | None, initial_logit: float
    ) -> None:
        super().__init__()
        self.value_ADO = nn.Parameter(torch.randn(num_tokens, dim, outputs_per_bin) * 0.5 * dim**-0.5)
        self.value_bias_AO = nn.Parameter(torch.full((num_tokens, outputs_per_bin), initial_logit))
        self.register_buffer("token_mask_AK", token_mask_AK, persistent=False)

    def forward(self, hidden_BTD: Tensor, scores_BTKO: Tensor, first: int) -> Tensor:
        """Logits `[B, T, K, O]` of tokens `first`, `first + 1`, ..."""
        last = first + hidden_BTD.shape[1]
        value_BTO = torch.einsum("btd,tdo->bto", hidden_BTD, self.value_ADO[first:last])
        value_BTO = value_BTO + self.value_bias_AO[first:last]
        mask_TK = None if self.token_mask_AK is None else self.token_mask_AK[first:last]
        return value_BTO.unsqueeze(2) + centred(scores_BTKO, mask_TK)
