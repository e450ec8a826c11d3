"""In which order the tokens of a decision are decided.

An order is int64 `[A]`: position j decides token `order[j]`. Legend: B batch, M orders, A tokens of a decision.
"""

from __future__ import annotations

import torch
from torch import Tensor


def identity_order(num_tokens: int, batch: int, device: torch.device | None = None) -> Tensor:
    """The tokens' own order for each row, `[B, A]`."""
    return torch.arange(num_tokens, device=device).expand(batch, -1)


def random_order(num_tokens: int, batch: int, *, steps: int = 1, device: torch.device | None = None) -> Tensor:
    """A random order for each row, `[B, A]`, from torch's default generator.

    With `steps` > 1 the tokens are those of so many consecutive actions, and are permuted inside each action only: the
    next action still comes after this one.
    """
    size = num_tokens // steps
    inside = torch.rand(batch, steps, size, device=device).argsort(-1)
    return (inside + torch.arange(steps, device=device)[:, None] * size).flatten(1)


def fixed_orders(num_tokens: int, limit: int) -> Tensor:
    """A small set of distinct orders, `[M, A]` with M at most `limit`: as is, reversed, then rotations of these two."""
    forward = list(range(num_tokens))
    orders: list[tuple[int, ...]] = []
    for shift in range(num_tokens):
        for base in (forward, forward[::-1]):
            order = tuple(base[shift:] + base[:shift])
            if order not in orders:
                orders.append(order)
    return torch.tensor(orders[:limit])


def in_order(values_BA: Tensor, order_BT: Tensor) -> Tensor:
    """`[B, A, ...]` laid out by token -> `[B, T, ...]` laid out by position, T at most A."""
    index = order_BT.reshape(*order_BT.shape, *[1] * (values_BA.ndim - 2))
    return values_BA.gather(1, index.expand(-1, -1, *values_BA.shape[2:]))


def by_token(values_BA: Tensor, order_BA: Tensor) -> Tensor:
    """The inverse of `in_order`, for a whole decision."""
    return in_order(values_BA, order_BA.argsort(1))
