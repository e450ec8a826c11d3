"""Beam search over the tokens of a decision.

Legend: B batch, W width of the beam, A action tokens of a decision, P tokens of a prefix, K bins, S observation tokens,
D width of a token.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qseq.networks.decoder import Decoder


@torch.no_grad()
def beam_search(
    decoder: Decoder,
    context_BSD: Tensor,
    width: int,
    *,
    score: Callable[[Tensor], Tensor],
    prefix_BP: Tensor | None = None,
    token_mask_AK: Tensor | None = None,
    order_BA: Tensor | None = None,
    use_cache: bool = True,
) -> tuple[Tensor, Tensor]:
    """Tokens `[B, A]` of the decision whose last token has the highest score, and the scores `[B, A, K]` on its way.

    After each token the `width` prefixes whose newest token scores highest are kept. In a Q-function the score of a
    token estimates the best that can follow it, so this searches where greedy decoding commits itself: the value of the
    last token, given all before it, is the value of the whole decision. A beam of width `K ** (A - 1)` tries every
    decision. Arguments as in `decode_tokens`; width 1 is greedy decoding.
    """
    batch, num_bins = len(context_BSD), decoder.num_bins
    device = context_BSD.device
    given_BP = torch.empty((batch, 0), dtype=torch.long, device=device) if prefix_BP is None else prefix_BP
    cache = decoder.new_cache() if use_cache else None
    tokens_NP = given_BP[:, :0]  # N rows: B times the prefixes kept so far, those of one batch row side by side
    context_NSD, order_NA = context_BSD, order_BA
    path_NPK = context_BSD.new_empty((batch, 0, num_bins), dtype=torch.float32)
    exists_N = torch.ones(batch, dtype=torch.bool, device=device)
    for position in range(decoder.num_tokens):
        logits = decoder(context_NSD, tokens_NP, cache, order_NA)[:, -1:]
        scores_NK = score(logits.float())[:, 0]
        if token_mask_AK is not None:
            exists_K = token_mask_AK[position if order_NA is None else order_NA[:, position]]
            scores_NK = scores_NK.masked_fill(~exists_K, -torch.inf)
        kept = len(scores_NK) // batch
        path_NPK = torch.cat((path_NPK, scores_NK[:, None]), dim=1)
        if position < given_BP.shape[1]:
            # While the prefix is given there is one row for each of the batch.
            tokens_NP = given_BP[:, : position + 1]
            continue
        last = position == decoder.num_tokens - 1
        # A beam wider than there are bins is filled up with bins that do not exist; nothing may grow from them.
        candidates_BN = scores_NK.masked_fill(~exists_N[:, None], -torch.inf).view(batch, kept * num_bins)
        best = candidates_BN.topk(1 if last else min(width, kept * num_bins), dim=1)
        best_BW, exists_N = best.indices, torch.isfinite(best.values).flatten()
        rows_N = (best_BW // num_bins + torch.arange(batch, device=device)[:, None] * kept).flatten()
        tokens_NP = torch.cat((tokens_NP[rows_N], (best_BW % num_bins).view(-1, 1)), dim=1)
        path_NPK, context_NSD = path_NPK[rows_N], context_NSD[rows_N]
        order_NA = None if order_NA is None else order_NA[rows_N]
        cache = None if cache is None else cache.select(rows_N)
    return tokens_NP, path_NPK
