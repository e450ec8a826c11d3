"""Deciding by a Q-function and a prior of good decisions at once.

The prior is a second head on the same observation tokens that imitates the decisions of the data that turned out better
than their state's value (`objective.prior_weight`). It learns what words and pictures mean from every action of a good
episode, where a value learns from how the episode ended; values know what mistakes cost, which imitation copies.

Legend: B batch, A action tokens of a decision, P tokens of a prefix, K bins, S observation tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor

from qseq.networks.action_network import NetworkConfig, make_action_head
from qseq.networks.attention import DecodingCache
from qseq.networks.decoder import Decoder
from qseq.networks.likelihood import among_existing

_NEVER = -1e4
"""Nats: less than any bin that exists is given."""


def make_prior(config: NetworkConfig, num_tokens: int, num_bins: int, token_mask_AK: Tensor | None) -> Decoder:
    """The head that imitates: as the critic, but for what only values have."""
    plain = replace(config.head, dueling=False, dual_critics=False)
    return make_action_head(
        config,
        plain,
        num_tokens=num_tokens,
        num_bins=num_bins,
        outputs_per_bin=1,
        initial_logit=0.0,
        token_mask_AK=token_mask_AK,
    )


class PriorGuidedDecoder(Decoder):
    """Scores `Q(prefix, bin) + weight * log prior(bin | prefix)`, both heads side by side.

    Drawn with Gumbel noise of scale `weight`, tokens follow `prior * exp(Q / weight)`: the policy that is worth most at
    a price of `weight` for each nat by which it leaves the prior (KL-regularised control; Peng et al. 2019, equation
    10, token by token). Without noise the best of this trade is taken.

    Args:
        critic, prior: the heads, of the same tokens.
        values: logits `[..., K, *atom_shape]` of the critic -> values `[..., K]`.
        weight: units of return that a nat is worth.
        token_mask_TK: bool, False where a bin does not exist, laid out by token.
    """

    def __init__(
        self,
        critic: Decoder,
        prior: Decoder,
        *,
        values: Callable[[Tensor], Tensor],
        weight: float,
        token_mask_TK: Tensor | None,
    ) -> None:
        super().__init__()
        self.critic, self.prior = critic, prior
        self.num_tokens, self.num_bins = critic.num_tokens, critic.num_bins
        self.values, self.weight, self.token_mask_TK = values, weight, token_mask_TK

    def new_cache(self) -> DecodingCache:
        return DecodingCache([*self.critic.new_cache().layers, *self.prior.new_cache().layers])

    def forward(
        self,
        context_BSD: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        order_BA: Tensor | None = None,
    ) -> Tensor:
        """Scores `[B, P + 1, K]`, in units of return."""
        of_critic, of_prior = (None, None) if cache is None else self._parts(cache)
        first = 0 if cache is None else cache.length
        values = self.values(self.critic(context_BSD, prefix_BP, of_critic, order_BA).float())
        logits = self.prior(context_BSD, prefix_BP, of_prior, order_BA).float()
        if cache is not None:
            cache.length = prefix_BP.shape[1] + 1
        if self.token_mask_TK is not None:
            positions = slice(first, first + logits.shape[1])
            mask = self.token_mask_TK[positions if order_BA is None else order_BA[:, positions]]
            logits = among_existing(logits, mask)
        # Bins that do not exist are for the one who chooses to refuse, as with every decoder: no score is infinite.
        scores: Tensor = values + self.weight * logits.log_softmax(-1).clamp_min(_NEVER)
        return scores

    @staticmethod
    def choose_by(scores: Tensor) -> Tensor:
        """Scores are what bins are chosen by."""
        return scores

    def _parts(self, cache: DecodingCache) -> tuple[DecodingCache, DecodingCache]:
        depth = len(self.prior.new_cache().layers)
        return DecodingCache(cache.layers[:-depth], cache.length), DecodingCache(cache.layers[-depth:], cache.length)
