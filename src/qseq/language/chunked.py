"""Sums over states of a loss that needs logits of the whole vocabulary, without ever holding all of these logits.

Legend: N states, D width of the trunk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Logits of one chunk: 64 MiB in float32."""

ChunkLoss = Callable[[Tensor, slice], Tensor]
"""Hidden states `[n, D]` of some rows, and which rows they are, to the sum of their losses."""


def chunk_rows(logits_of_a_row: int, elements: int = CHUNK_ELEMENTS) -> int:
    """How many states make one chunk."""
    return max(1, elements // max(logits_of_a_row, 1))


def chunked_sum(loss: ChunkLoss, hidden_ND: Tensor, parameters: Sequence[Tensor], *, rows: int) -> Tensor:
    """`sum over chunks of loss(hidden[chunk], chunk)`, with gradients for `hidden_ND` and `parameters`.

    Each chunk goes forward and backward at once, so its logits are gone before those of the next one are made; nothing
    is computed twice. What of the gradient does not come through `hidden_ND` or `parameters` is lost.

    Args:
        rows: states of one chunk; no more than that many states are one ordinary call.
        parameters: everything else that `loss` should train.
    """
    if len(hidden_ND) <= rows or not torch.is_grad_enabled():
        return sum_of_chunks(loss, hidden_ND, rows)
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    if not trained and not hidden_ND.requires_grad:
        with torch.no_grad():
            return sum_of_chunks(loss, hidden_ND, rows)
    total: Tensor = _ChunkedSum.apply(loss, rows, hidden_ND, *trained)  # type: ignore[no-untyped-call]
    return total


def sum_of_chunks(loss: ChunkLoss, hidden_ND: Tensor, rows: int) -> Tensor:
    """The same sum by ordinary calls."""
    chunks = [slice(start, min(start + rows, len(hidden_ND))) for start in range(0, len(hidden_ND), rows)]
    return torch.stack([loss(hidden_ND[chunk], chunk) for chunk in chunks or [slice(0, 0)]]).sum()


class _ChunkedSum(torch.autograd.Function):
    """The gradient of a sum is known as soon as the sum is: backward only scales it."""

    @staticmethod
    def forward(ctx: Any, loss: ChunkLoss, rows: int, hidden_ND: Tensor, *parameters: Tensor) -> Tensor:
        wants_hidden = ctx.needs_input_grad[2]
        hidden_grad = torch.empty_like(hidden_ND) if wants_hidden else None
        grads: list[Tensor | None] = [None] * len(parameters)
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, len(hidden_ND), rows):
            chunk = slice(start, min(start + rows, len(hidden_ND)))
            with torch.enable_grad():
                part = hidden_ND[chunk].detach().requires_grad_(wants_hidden)
                value = loss(part, chunk)
                inputs = [part, *parameters] if wants_hidden else list(parameters)
                found = list(torch.autograd.grad(value, inputs, allow_unused=True))
            if hidden_grad is not None:
                first = found.pop(0)
                hidden_grad[chunk] = 0.0 if first is None else first
            for place, more in enumerate(found):
                grad = grads[place]
                grads[place] = more if grad is None else grad if more is None else grad.add_(more)
            total += value.detach().float()
        ctx.grads = [hidden_grad, *grads]
        return total

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        # In place: a second copy of the gradient of a head over the vocabulary is what this is here to avoid.
        grads = [None if grad is None else grad.mul_(outer[0].to(grad.dtype)) for grad in ctx.grads]
        ctx.grads = None
        return None, None, *grads
