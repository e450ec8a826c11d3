"""Feature-wise linear modulation: an instruction scales and shifts every feature.

Legend: B batch, C size of the condition (an instruction embedding), D features.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FiLM(nn.Module):
    """`x * (1 + scale) + shift`, scale and shift being linear in the condition (Perez et al. 2018).

    The layer starts as the identity, so that it may be put into a network without disturbing it (RT-1, Brohan et al.
    2022, section 5.1).

    Args:
        channel_axis: where the features of `x` lie: 1 for maps `[B, D, h, w]`, -1 for tokens `[B, ..., D]`.
    """

    def __init__(self, condition_dim: int, dim: int, *, channel_axis: int = 1) -> None:
        super().__init__()
        self.dim = dim
        self.channel_axis = channel_axis
        self.to_scale_shift = nn.Linear(condition_dim, 2 * dim)
        nn.init.zeros_(self.to_scale_shift.weight)
        nn.init.zeros_(self.to_scale_shift.bias)

    def forward(self, x: Tensor, conditions_BC: Tensor) -> Tensor:
        """`x` of any shape with B first and D on `channel_axis`; the result has the same shape."""
        shape = [1] * x.ndim
        shape[0], shape[self.channel_axis] = conditions_BC.shape[0], self.dim
        scale, shift = (part.view(shape) for part in self.to_scale_shift(conditions_BC).chunk(2, dim=-1))
        out: Tensor = x * (1 + scale) + shift
        return out


class NullCondition(nn.Module):
    """A learnt vector in the place of instructions that are absent, or dropped for classifier-free guidance
    (Ho and Salimans 2022, section 3.2)."""

    def __init__(self, condition_dim: int) -> None:
        super().__init__()
        self.null_C = nn.Parameter(torch.randn(condition_dim) * 0.02)

    def forward(self, conditions_BC: Tensor | None, *, batch: int, keep_B: Tensor | None = None) -> Tensor:
        """Conditions `[B, C]`, with the null vector in all rows if None, else in those where `keep_B` (bool) is False.

        Raises:
            ValueError: the conditions are not `[batch, C]`.
        """
        if conditions_BC is None:
            return self.null_C.expand(batch, -1)
        if conditions_BC.shape != (batch, self.null_C.shape[0]):
            raise ValueError(
                f"conditions have shape {tuple(conditions_BC.shape)}, expected {(batch, self.null_C.shape[0])}"
            )
        if keep_B is None:
            keep_B = conditions_BC.new_ones(batch, dtype=torch.bool)
        # The null vector takes part even where no row uses it: data-parallel training waits for every gradient.
        return torch.where(keep_B[:, None], conditions_BC.to(self.null_C.dtype), self.null_C)


def resolve_conditions(null: NullCondition | None, conditions_BC: Tensor | None, *, batch: int) -> Tensor | None:
    """What the FiLM layers of a tower read: None for an unconditioned tower (`null` is None), else `[B, C]`.

    Raises:
        ValueError: conditions given to an unconditioned tower, or of another shape than `[batch, C]`.
    """
    if null is not None:
        conditions: Tensor = null(conditions_BC, batch=batch)
        return conditions
    if conditions_BC is not None:
        raise ValueError(
            f"conditions of shape {tuple(conditions_BC.shape)} for a tower built without `condition_dim`, expected None"
        )
    return None
