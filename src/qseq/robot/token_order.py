"""A decision as the sequence that is learnt: its tokens, in the order in which they are decided.

Legend: B batch, A action tokens of a decision, T tokens of the sequence (A, or A + 1 with one that chooses the order),
M orders, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from qseq.actions import ActionTokenizer
from qseq.errors import ConfigError
from qseq.networks.head import HeadConfig, order_table, with_order_token
from qseq.networks.ordering import in_order, random_order
from qseq.policies.windows import decision_steps


@dataclass(frozen=True, kw_only=True)
class TokenSequence:
    """Tokens as the network reads them. Everything is laid out by position."""

    tokens_BT: Tensor
    weights_BT: Tensor
    """0 where a chunk outlasts its episode."""
    chosen_by_data_BT: Tensor
    """Weights of the tokens for which bins that the data lack may be pulled down."""
    token_mask: Tensor | None
    """Bool `[T, K]` or `[B, T, K]`, False where a bin does not exist."""
    order_BT: Tensor | None = None
    """int64, the token that each position decides; None for their own order."""


class FixedOrder:
    """Tokens come in the order of the dimensions."""

    extra_tokens = 0

    def __init__(self, token_mask_AK: Tensor | None) -> None:
        self.token_mask_AK = token_mask_AK

    def lay_out(self, tokens_BA: Tensor, weights_BA: Tensor) -> TokenSequence:
        mask_AK = None if self.token_mask_AK is None else self.token_mask_AK.to(tokens_BA.device)
        return TokenSequence(
            tokens_BT=tokens_BA, weights_BT=weights_BA, chosen_by_data_BT=weights_BA, token_mask=mask_AK
        )


class RandomOrder(FixedOrder):
    """A new random order for each decision, from torch's default generator; inside each action of a chunk."""

    def __init__(self, token_mask_AK: Tensor | None, steps: int = 1) -> None:
        super().__init__(token_mask_AK)
        self.steps = steps

    def lay_out(self, tokens_BA: Tensor, weights_BA: Tensor) -> TokenSequence:
        order_BA = random_order(tokens_BA.shape[1], len(tokens_BA), steps=self.steps, device=tokens_BA.device)
        return _ordered(super().lay_out(tokens_BA, weights_BA), order_BA)


class LearnedOrder(FixedOrder):
    """The first token chooses one of a few orders; the others follow in that order.

    The data do not say in which order their actions were decided: any order explains them. So in training it is drawn
    at random, and bins of the first token are not pulled down. Its target is that of any token inside a decision, the
    best that can follow. The exact values of all orders are equal; of learnt ones the best is decoded.
    """

    extra_tokens = 1

    def __init__(self, token_mask_AK: Tensor | None, orders_MA: Tensor, num_bins: int) -> None:
        super().__init__(with_order_token(token_mask_AK, orders_MA, num_bins))
        self.orders_MA = orders_MA

    def lay_out(self, tokens_BA: Tensor, weights_BA: Tensor) -> TokenSequence:
        orders_MA = self.orders_MA.to(tokens_BA.device)
        choice_B = torch.randint(len(orders_MA), (len(tokens_BA),), device=tokens_BA.device)
        always_B1 = torch.ones_like(weights_BA[:, :1])
        sequence = super().lay_out(
            torch.cat((choice_B[:, None], tokens_BA), dim=1), torch.cat((always_B1, weights_BA), dim=1)
        )
        by_data_BT = torch.cat((torch.zeros_like(always_B1), weights_BA), dim=1)
        return _ordered(replace(sequence, chosen_by_data_BT=by_data_BT), after_order_token(orders_MA[choice_B]))


def after_order_token(order_BA: Tensor) -> Tensor:
    """The order `[B, A + 1]` of a decision whose first token has chosen `order_BA`."""
    return torch.cat((torch.zeros_like(order_BA[:, :1]), order_BA + 1), dim=1)


def make_token_order(head: HeadConfig, tokenizer: ActionTokenizer) -> FixedOrder:
    """The order named in a config.

    Raises:
        ConfigError: a learned order for chunks of several actions.
    """
    steps = decision_steps(tokenizer)
    if head.dimension_order == "random":
        return RandomOrder(tokenizer.token_mask, steps)
    orders_MA = order_table(head, num_tokens=tokenizer.num_tokens, num_bins=tokenizer.num_bins)
    if orders_MA is None:
        return FixedOrder(tokenizer.token_mask)
    if steps > 1:
        raise ConfigError(
            f'network.head.dimension_order: found "learned" with actions.chunk={steps}, expected "fixed" or "random": '
            "an order of all tokens of a chunk would decide later actions before earlier ones"
        )
    return LearnedOrder(tokenizer.token_mask, orders_MA, tokenizer.num_bins)


def _ordered(sequence: TokenSequence, order_BT: Tensor) -> TokenSequence:
    mask = sequence.token_mask
    return TokenSequence(
        tokens_BT=in_order(sequence.tokens_BT, order_BT),
        weights_BT=in_order(sequence.weights_BT, order_BT),
        chosen_by_data_BT=in_order(sequence.chosen_by_data_BT, order_BT),
        token_mask=None if mask is None else mask[order_BT],
        order_BT=order_BT,
    )
