"""What every vision tower has in common: its interface, the images it takes, its norms.

Legend: B batch, C channels of the images or of the condition, H x W pixels, D features, h x w positions of a map.
"""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class VisionTower(Protocol):
    """A module over single images that may take the place of any other."""

    out_dim: int
    """D, features of the map."""
    condition_dim: int | None
    """Size of the instruction embedding, None for a tower that takes none."""

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels of an image -> positions (h, w) of its feature map; ValueError for a side that does not fit."""

    def __call__(
        self, images_BCHW: Tensor, conditions: Tensor | None = None, return_embeddings: bool = False
    ) -> Tensor:
        """Feature map `[B, out_dim, h, w]`, or class logits if the tower has a head and `return_embeddings` is off."""


def prepare_images(images_BCHW: Tensor, *, channels: int, dtype: torch.dtype) -> Tensor:
    """Images as a convolution reads them: in `dtype`, centred to [-0.5, 0.5], in channels-last memory.

    See `centred` for their scale.

    Raises:
        ValueError: not four dimensions, other channels than `channels`, or integers other than uint8.
    """
    check_images(images_BCHW, channels=channels)
    return centred(images_BCHW, dtype, torch.channels_last)


def check_images(images_BCHW: Tensor, *, channels: int) -> None:
    """Raises ValueError as `prepare_images` does."""
    if images_BCHW.ndim != 4:
        raise ValueError(f"images have shape {tuple(images_BCHW.shape)}, expected [batch, channels, height, width]")
    if images_BCHW.shape[1] != channels:
        raise ValueError(
            f"images of shape {tuple(images_BCHW.shape)} have {images_BCHW.shape[1]} channels, expected {channels} "
            "in the second dimension (is the channel last?)"
        )
    if images_BCHW.dtype != torch.uint8 and not images_BCHW.is_floating_point():
        raise ValueError(f"images are {images_BCHW.dtype}, expected uint8 in [0, 255] or floats in [0, 1]")


def centred(pixels: Tensor, dtype: torch.dtype, memory_format: torch.memory_format = torch.preserve_format) -> Tensor:
    """Pixels of any layout in [-0.5, 0.5].

    uint8 in [0, 255] is scaled here; under autocast it is in its type at once, which spares a float32 copy of every
    frame. Floats must be scaled to [0, 1] already: their range is not looked at, because that would make a GPU wait at
    every step.
    """
    if pixels.dtype != torch.uint8:
        return pixels.to(dtype, memory_format=memory_format) - 0.5
    device = pixels.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    scaled = pixels.to(dtype, memory_format=memory_format)
    return torch.add(scaled.new_tensor(-0.5), scaled, alpha=1 / 255, out=scaled)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each position (Ba et al. 2016), `[B, D, h, w]` to the same.

    Without statistics of the batch an image's features depend neither on its neighbours nor on train or eval mode.
    """

    def forward(self, x_BDhw: Tensor) -> Tensor:
        # In channels-last memory both permutations are free.
        x_BhwD = functional.layer_norm(
            x_BDhw.permute(0, 2, 3, 1), self.normalized_shape, self.weight, self.bias, self.eps
        )
        return x_BhwD.permute(0, 3, 1, 2)


def group_norm(dim: int) -> nn.GroupNorm:
    """Group norm (Wu and He 2018) of 4 groups, or of fewer where 4 do not divide `dim`; one image at a time too.

    In channels-last memory on a CPU the time of the norm grows with the number of groups.
    """
    return nn.GroupNorm(math.gcd(4, dim), dim)


class AddPlace(nn.Module):
    """Adds to every position of a map a linear function of its row and column (as CoordConv, Liu et al. 2018).

    Tokens pooled from a map by attention say what was seen; without this only traces of the padding say where. It
    works for images of any size.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        # At first no larger than what a stem makes of an image.
        self.weight_2D = nn.Parameter(torch.randn(2, dim) * 0.1)

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """`[B, D, h, w]` -> the same shape. Rows and columns count from -1 to 1."""
        height, width = x_BDhw.shape[2:]
        rows_h, columns_w = (
            torch.linspace(-1, 1, side, dtype=x_BDhw.dtype, device=x_BDhw.device) for side in (height, width)
        )
        by_row_D, by_column_D = self.weight_2D.to(x_BDhw.dtype)
        place_hwD: Tensor = rows_h[:, None, None] * by_row_D + columns_w[None, :, None] * by_column_D
        return x_BDhw + place_hwD.permute(2, 0, 1)
