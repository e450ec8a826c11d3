"""Choosing the tokens of a decision one after the other.

Legend: B batch, A action tokens of a decision, P tokens of a given prefix, K bins, S observation tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from qseq.networks.decoder import Decoder

Select = Callable[[Tensor, int], Tensor]
"""Scores `[B, K]` of the token at a position -> chosen bins, int64 `[B]`. Bins that do not exist score -inf."""

Search = Callable[..., tuple[Tensor, Tensor]]
"""What finds a decision's tokens as `decode_tokens` does: `(decoder, context, ...)` -> tokens and scores."""


@torch.no_grad()
def decode_tokens(
    decoder: Decoder,
    context_BSD: Tensor,
    select: Select,
    *,
    score: Callable[[Tensor], Tensor],
    prefix_BP: Tensor | None = None,
    token_mask_AK: Tensor | None = None,
    order_BA: Tensor | None = None,
    use_cache: bool = True,
) -> tuple[Tensor, Tensor]:
    """Tokens `[B, A]` and the scores `[B, A, K]` they were chosen by; a given prefix is kept and scored too.

    `score` maps logits to what `select` and the caller see (values of a Q-function, logits of a policy). With
    `order_BA` position j decides token `order[j]`: the prefix and what comes back are laid out by position, the mask
    by token.
    """
    tokens_BP = context_BSD.new_empty((context_BSD.shape[0], 0), dtype=torch.long) if prefix_BP is None else prefix_BP
    cache = decoder.new_cache() if use_cache else None
    scores: list[Tensor] = []
    while tokens_BP.shape[1] < decoder.num_tokens or len(scores) < decoder.num_tokens:
        # A full prefix still has its last token scored: the decoder sees all tokens but that one.
        seen_BP = tokens_BP[:, : decoder.num_tokens - 1]
        fresh = score(decoder(context_BSD, seen_BP, cache, order_BA).float())
        for position in range(len(scores), seen_BP.shape[1] + 1):
            scores_BK = fresh[:, position - (seen_BP.shape[1] + 1)]
            if token_mask_AK is not None:
                exists_K = token_mask_AK[position if order_BA is None else order_BA[:, position]]
                scores_BK = scores_BK.masked_fill(~exists_K, -torch.inf)
            scores.append(scores_BK)
        if tokens_BP.shape[1] < decoder.num_tokens:
            position = tokens_BP.shape[1]
            tokens_BP = torch.cat((tokens_BP, select(scores[position], position)[:, None]), dim=1)
    return tokens_BP, torch.stack(scores, dim=1)


def greedy(scores_BK: Tensor, position: int) -> Tensor:
    """The best bin; the first of equals."""
    return scores_BK.argmax(-1)


def epsilon_greedy(epsilon: float, generator: torch.Generator | None = None) -> Select:
    """The best bin, but with probability `epsilon`, for each row and token by itself, any existing bin."""

    def select(scores_BK: Tensor, position: int) -> Tensor:
        exists_BK = torch.isfinite(scores_BK).float()
        random_B = torch.multinomial(exists_BK, 1, generator=generator).squeeze(-1)
        explore_B = torch.rand(len(scores_BK), generator=generator, device=scores_BK.device) < epsilon
        return torch.where(explore_B, random_B, scores_BK.argmax(-1))

    return select


def sample(temperature: float = 1.0, generator: torch.Generator | None = None) -> Select:
    """A bin drawn from the softmax of the scores."""

    def select(scores_BK: Tensor, position: int) -> Tensor:
        return torch.multinomial((scores_BK / temperature).softmax(-1), 1, generator=generator).squeeze(-1)

    return select


def gumbel(temperature: float, generator: torch.Generator | None = None) -> Select:
    """The best bin after Gumbel noise of scale `temperature` is added to every score; with 0, the best bin.

    This draws from the softmax of `scores / temperature` (Gumbel 1954; Maddison et al. 2014), so a bin is tried the
    more often the less it seems to lose.
    """

    def select(scores_BK: Tensor, position: int) -> Tensor:
        uniform_BK = torch.rand(scores_BK.shape, generator=generator, device=scores_BK.device).clamp_min(1e-12)
        return (scores_BK - temperature * torch.log(-torch.log(uniform_BK))).argmax(-1)

    return select if temperature > 0 else greedy


def annealed(step: int, *, start: float, end: float, steps: int) -> float:
    """A quantity that falls (or rises) linearly from `start` at step 0 to `end` at step `steps`, and stays there."""
    return end if step >= steps else start + (end - start) * step / steps
