"""From a Q-function to a decision: greedy, with noise, by beam search, in any order of its dimensions.

Legend: B batch, N rows of a search (B, or B times M), A action tokens of a decision, T tokens of a sequence (A, or
A + 1 with one that chooses the order), P tokens of a prefix, M orders, K bins, S observation tokens, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from qseq.configuration import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from qseq.errors import ConfigError, RequestError
from qseq.networks.beam_search import beam_search
from qseq.networks.decoder import Decoder
from qseq.networks.decoding import Search, Select, annealed, decode_tokens, epsilon_greedy, greedy, gumbel
from qseq.networks.head import with_order_token
from qseq.networks.ordering import by_token
from qseq.robot.token_order import after_order_token

_LEAST_SHARE = 1e-4

if TYPE_CHECKING:
    from qseq.robot.model import QRoboticTransformer


@dataclass(frozen=True, kw_only=True)
class DecodingConfig:
    """How a policy chooses tokens. At most one of epsilon, temperature and a beam; without any it is greedy."""

    epsilon: Fraction = 0.0
    """Probability with which each single dimension is random."""
    temperature: NonNegativeFloat = 0.0
    """Scale of the Gumbel noise on values (in the units of returns): bins that lose little are tried often."""
    final_temperature: NonNegativeFloat = 0.0
    """What the temperature has fallen to, linearly, after `anneal_decisions`."""
    anneal_decisions: NonNegativeInt = 0
    """Decisions (of all environments together, one for each call) over which the noise is annealed; 0 keeps it."""
    beam_width: PositiveInt = 1
    """Prefixes kept by beam search over the dimensions."""
    order: tuple[NonNegativeInt, ...] = ()
    """Order of the dimensions, for networks trained with network.head.dimension_order=random."""
    relative: bool = False
    """Compare bins by the logarithm of their values, as shares of the range: what costs a tenth of the value counts
    the same wherever the goal is, where noise that is enough near it drowns all differences of discounted values far
    from it. `temperature` and `prior_weight` have no unit then. For values with bounds."""
    prior_weight: NonNegativeFloat = 0.0
    """What a nat of the prior's log-likelihood is worth, in the units of returns, for networks trained with
    objective.prior_weight; 0 decides by the values alone. See `PriorGuidedDecoder`."""

    def __post_init__(self) -> None:
        chosen = {"epsilon": self.epsilon > 0, "temperature": self.temperature > 0, "beam_width": self.beam_width > 1}
        names = [f"decoding.{name}" for name, given in chosen.items() if given]
        if len(names) > 1:
            raise ConfigError(
                f"{' and '.join(names)}: found together, expected one of them: each says how bins are chosen"
            )
        if self.prior_weight and self.beam_width > 1:
            raise ConfigError(
                f"decoding.prior_weight: found {self.prior_weight}, expected 0 with decoding.beam_width="
                f"{self.beam_width}: a beam compares prefixes by value, and the likelihood of a token is none"
            )

    def select(self, decision: int = 0, generator: torch.Generator | None = None) -> Select:
        """How bins of the `decision`-th decision, counted from 0, are chosen by their values."""
        if self.epsilon:
            return epsilon_greedy(self.epsilon, generator)
        if not self.temperature:
            return greedy
        steps = self.anneal_decisions
        falling = annealed(decision, start=self.temperature, end=self.final_temperature, steps=steps)
        return gumbel(falling if steps else self.temperature, generator)


def log_shares(values: Tensor, low: float, high: float) -> Tensor:
    """Logarithms of values as shares of the range from `low` to `high`, at least that of a ten-thousandth."""
    return ((values - low) / (high - low)).clamp(min=_LEAST_SHARE).log()


@torch.no_grad()
def choose_tokens(
    network: QRoboticTransformer,
    context_BSD: Tensor,
    select: Select = greedy,
    *,
    decoder: Decoder | None = None,
    prefix_BP: Tensor | None = None,
    order: Sequence[int] | Tensor = (),
    beam_width: int = 1,
    score: Callable[[Tensor], Tensor] | None = None,
    use_cache: bool = True,
    decode: Search = decode_tokens,
) -> tuple[Tensor, Tensor]:
    """Tokens `[B, A]` and the values `[B, A, K]` they were chosen by, both in the order of the dimensions.

    Args:
        context_BSD: what the decoder reads.
        decoder: in place of the network's own, such as a `GuidedDecoder`.
        prefix_BP: tokens to be kept, of the first P dimensions of the order. A network that chooses its order itself
            then takes the dimensions' own.
        order: the dimensions `[A]`, or `[B, A]`, in the order in which they are to be decided; empty for their own.
        beam_width: prefixes kept by beam search, which takes no `select`. A network that chooses its order has a beam
            for each.
        score: what the decoder says of bins `[..., K, *atom_shape]` -> what they are chosen by, `[..., K]`; by default
            their values.
        decode: what does as `decode_tokens`, without a beam.

    Raises:
        RequestError: an order that is none, or for a network that was not trained for it.
    """
    decoder, score = decoder or network.decoder, score or network.values.values
    order_BA = checked_order(network, order, len(context_BSD))
    mask_TK = with_order_token(network.token_mask_AK, network.orders_MA, network.decoder.num_bins)
    search: Search = partial(
        beam_search if beam_width > 1 else decode,
        decoder,
        **({"width": beam_width} if beam_width > 1 else {"select": select}),
        score=score,
        token_mask_AK=None if mask_TK is None else mask_TK.to(context_BSD.device),
        use_cache=use_cache,
    )
    if network.orders_MA is not None:
        orders_MA = network.orders_MA.to(context_BSD.device)
        return _choose_order_first(
            decoder, score, orders_MA, context_BSD, select, search, prefix_BP, every=beam_width > 1
        )
    tokens_BA, values_BAK = search(context_BSD, prefix_BP=prefix_BP, order_BA=order_BA)
    if order_BA is None:
        return tokens_BA, values_BAK
    return by_token(tokens_BA, order_BA), by_token(values_BAK, order_BA)


def _choose_order_first(
    decoder: Decoder,
    score: Callable[[Tensor], Tensor],
    orders_MA: Tensor,
    context_BSD: Tensor,
    select: Select,
    search: Search,
    prefix_BP: Tensor | None,
    *,
    every: bool,
) -> tuple[Tensor, Tensor]:
    """`choose_tokens` where the first token chooses the order: by its value, or with `every`, by trying all."""
    batch, device = len(context_BSD), context_BSD.device
    if prefix_BP is not None and prefix_BP.shape[1]:
        choice_N = torch.zeros(batch, dtype=torch.long, device=device)  # the dimensions' own order
    elif every:
        choice_N = torch.arange(len(orders_MA), device=device).repeat(batch)
        context_BSD = context_BSD.repeat_interleave(len(orders_MA), dim=0)
    else:
        none_B0 = torch.empty((batch, 0), dtype=torch.long, device=device)
        values_BK = score(decoder(context_BSD, none_B0).float())[:, 0]
        is_order_K = torch.arange(values_BK.shape[1], device=device) < len(orders_MA)
        choice_N = select(values_BK.masked_fill(~is_order_K, -torch.inf), 0)
    order_NT = after_order_token(orders_MA[choice_N])
    given_NP = choice_N[:, None] if prefix_BP is None else torch.cat((choice_N[:, None], prefix_BP), dim=1)
    tokens_NT, values_NTK = search(context_BSD, prefix_BP=given_NP, order_BA=order_NT)
    if len(tokens_NT) > batch:
        last_BM = values_NTK[:, -1].gather(1, tokens_NT[:, -1:]).view(batch, -1)
        best_B = last_BM.argmax(1) + torch.arange(batch, device=device) * last_BM.shape[1]
        tokens_NT, values_NTK, order_NT = tokens_NT[best_B], values_NTK[best_B], order_NT[best_B]
    return by_token(tokens_NT, order_NT)[:, 1:], by_token(values_NTK, order_NT)[:, 1:]


def checked_order(network: QRoboticTransformer, order: Sequence[int] | Tensor, batch: int) -> Tensor | None:
    """An order of dimensions for each row, `[B, A]`; None for their own.

    Raises:
        RequestError: it is no permutation of the dimensions, or the network was not trained for any order.
    """
    if len(order) == 0:
        return None
    order_BA = torch.as_tensor(order, device=network.device).expand(batch, -1)
    if not torch.equal(
        order_BA.sort(1).values, torch.arange(network.num_actions, device=network.device).expand(batch, -1)
    ):
        raise RequestError(
            f"order: found {order_BA[0].tolist()}, expected each of the {network.num_actions} dimensions (from 0) once"
        )
    if network.config.head.dimension_order != "random":
        raise RequestError(
            f'order: given, but the network was trained with dimension_order "{network.config.head.dimension_order}", '
            'expected "random"'
        )
    return order_BA
