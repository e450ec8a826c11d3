"""The options of the head that scores action tokens, and the head they name.

Legend: A action tokens of a decision, M orders, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from qseq.configuration import PositiveInt
from qseq.errors import ConfigError
from qseq.networks.action_decoder import ActionDecoder
from qseq.networks.decoder import Decoder
from qseq.networks.ordering import fixed_orders
from qseq.networks.pooled_head import PooledHead
from qseq.networks.twin_decoder import TwinDecoder


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """How the bins of a token are scored. All options go together but where one says otherwise."""

    dueling: bool = False
    """Score bins as the value of the prefix plus centred advantages (Wang et al. 2016)."""
    dual_critics: bool = False
    """Two decoders, initialised and trained each by itself on the one encoder; the smaller value is used for targets
    (with objective.bootstrap=max) and for actions."""
    dimension_order: Literal["fixed", "random", "learned"] = "fixed"
    """In which order the dimensions of an action are decided: their own; a random one for each decision in training,
    so that decisions can be made in any; or one of a few, which the first token of a decision chooses."""
    num_orders: PositiveInt = 4
    """With dimension_order=learned: how many to choose from, fewer where there are fewer dimensions or bins."""
    pooled: bool = False
    """Score the bins from the mean of the observation tokens, without a decoder: for decisions of one token."""

    def __post_init__(self) -> None:
        if self.pooled and self.dimension_order != "fixed":
            raise ConfigError(
                f'network.head.dimension_order: found "{self.dimension_order}", expected "fixed" with '
                "network.head.pooled, which decides one token"
            )


def require_plain_head(config: HeadConfig) -> None:
    """For families whose scores are not values and whose dimensions come in their own order.

    Raises:
        ConfigError: two critics, or another order.
    """
    if config.dual_critics:
        raise ConfigError("network.head.dual_critics: found true, expected false: only Q-functions have critics")
    if config.dimension_order != "fixed":
        raise ConfigError(
            f'network.head.dimension_order: found "{config.dimension_order}", expected "fixed": '
            "only q-transformer learns other orders"
        )


def order_table(config: HeadConfig, *, num_tokens: int, num_bins: int) -> Tensor | None:
    """The orders that the first token chooses from, int64 `[M, A]`; None without such a token."""
    if config.dimension_order != "learned":
        return None
    return fixed_orders(num_tokens, min(config.num_orders, num_bins))


def with_order_token(token_mask_AK: Tensor | None, orders_MA: Tensor | None, num_bins: int) -> Tensor | None:
    """The mask of a decision's bins with that of the token that chooses the order before it, `[A + 1, K]`."""
    if orders_MA is None:
        return token_mask_AK
    num_orders, num_tokens = orders_MA.shape
    rest_AK = torch.ones(num_tokens, num_bins, dtype=torch.bool) if token_mask_AK is None else token_mask_AK
    first_1K = torch.arange(num_bins, device=rest_AK.device)[None] < num_orders
    return torch.cat((first_1K, rest_AK))


def make_head(
    config: HeadConfig,
    dim: int,
    *,
    num_tokens: int,
    num_bins: int,
    ff_mult: int,
    tied: bool,
    outputs_per_bin: int,
    initial_logit: float,
    token_mask_AK: Tensor | None,
    **decoder: Any,
) -> Decoder:
    """The head of a decision of `num_tokens` tokens (one more inside, where a first token chooses the order).

    `decoder`: further arguments of `ActionDecoder`.

    Raises:
        ConfigError: options that exclude each other, or a pooled head for more than one token.
    """
    if tied and outputs_per_bin != 1:
        raise ConfigError(
            "network.tied: found true, expected false with objective.value=categorical: products with the embeddings "
            "give one score per bin, not a histogram"
        )
    if config.pooled and tied:
        raise ConfigError("network.tied: found true, expected false with network.head.pooled, which embeds no bins")
    if config.pooled and num_tokens != 1:
        raise ConfigError(
            f"network.head.pooled: found a decision of {num_tokens} tokens, expected 1 (a discrete action, no chunk): "
            "leave it false"
        )
    orders_MA = order_table(config, num_tokens=num_tokens, num_bins=num_bins)
    shared: dict[str, Any] = {
        "num_bins": num_bins,
        "ff_mult": ff_mult,
        "dueling": config.dueling,
        "outputs_per_bin": outputs_per_bin,
        "initial_logit": initial_logit,
        "token_mask_AK": with_order_token(token_mask_AK, orders_MA, num_bins),
    }

    def one() -> Decoder:
        if config.pooled:
            return PooledHead(dim, **shared)
        return ActionDecoder(
            dim,
            num_tokens=num_tokens + (orders_MA is not None),
            tied=tied,
            any_order=config.dimension_order != "fixed",
            **shared,
            **decoder,
        )

    return TwinDecoder([one(), one()]) if config.dual_critics else one()
