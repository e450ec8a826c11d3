"""Axial rotary position embedding of a small two-dimensional window.

Legend: T positions of the window, E width of one head, R rotated pairs (E / 2).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


def axial_angles(height: int, width: int, dim_head: int, *, theta: float = 100.0) -> Tensor:
    """Angles by which the pairs of every position turn, radians, float32 `[height * width, dim_head / 2]`.

    The first half of the pairs turns with the row, the second half with the column. Frequencies fall geometrically
    from 1 towards 1 / theta (Su et al. 2021 for one axis; Heo et al. 2024 for two and for the small
    theta: positions of an image are few, so slower pairs would not tell them apart).

    Raises:
        ValueError: `dim_head` is not a multiple of 4, a pair for each axis.
    """
    if dim_head % 4 or dim_head < 4:
        raise ValueError(f"axial rotary embedding of heads {dim_head} wide, expected a multiple of 4")
    pairs_an_axis = dim_head // 4
    frequencies = theta ** (-torch.arange(pairs_an_axis, dtype=torch.float32) / pairs_an_axis)
    rows_T = torch.arange(height, dtype=torch.float32).repeat_interleave(width)
    columns_T = torch.arange(width, dtype=torch.float32).repeat(height)
    return torch.cat((rows_T[:, None] * frequencies, columns_T[:, None] * frequencies), dim=1)


def rotate(x_TE: Tensor, cos_TR: Tensor, sin_TR: Tensor) -> Tensor:
    """Turns pair i of `[..., T, E]`, made of features 2 i and 2 i + 1, by its angle; the type stays.

    On a CPU in float32 it is one product of complex numbers, which reads and writes each feature once; not in a program
    that is exported, as other runtimes have no complex numbers.
    """
    if x_TE.device.type == "cpu" and x_TE.dtype == torch.float32 and not torch.compiler.is_exporting():
        turn_TR = torch.complex(cos_TR, sin_TR)
        return torch.view_as_real(torch.view_as_complex(x_TE.view(*x_TE.shape[:-1], -1, 2)) * turn_TR).flatten(-2)
    first_TR, second_TR = x_TE[..., 0::2], x_TE[..., 1::2]
    turned = torch.stack((first_TR * cos_TR - second_TR * sin_TR, first_TR * sin_TR + second_TR * cos_TR), dim=-1)
    return turned.flatten(-2).to(x_TE.dtype)


class AxialRotary(nn.Module):
    """`rotate` with the angles of one window, so that products of queries and keys depend on where they lie relative
    to each other only."""

    cos_TR: Tensor
    sin_TR: Tensor

    def __init__(self, height: int, width: int, dim_head: int, *, theta: float = 100.0) -> None:
        super().__init__()
        angles_TR = axial_angles(height, width, dim_head, theta=theta)
        # Not stored with the weights: they follow from the sizes.
        self.register_buffer("cos_TR", angles_TR.cos(), persistent=False)
        self.register_buffer("sin_TR", angles_TR.sin(), persistent=False)

    def forward(self, x_TE: Tensor) -> Tensor:
        """Queries or keys `[..., T, E]`, positions row by row."""
        return rotate(x_TE, self.cos_TR, self.sin_TR)
