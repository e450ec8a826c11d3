"""Random shifts and crops of camera images, the same for all frames of a window.

Legend: B windows, F frames of a window, C channels, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor


def crop(frames_BFCHW: Tensor, top_B: Tensor, left_B: Tensor, size: tuple[int, int]) -> Tensor:
    """Cuts `size` (height, width) out of every window, from row `top_B` and column `left_B` (int64 `[B]`) on.

    Rows and columns outside the image repeat its edge. The result has the type and device of the frames.
    """
    height, width = frames_BFCHW.shape[-2:]
    rows_Bh = _window(top_B, size[0], height, frames_BFCHW.device)
    columns_Bw = _window(left_B, size[1], width, frames_BFCHW.device)
    # One gather with a flat index per window, read by all its frames and channels, instead of a loop over windows.
    index_BP = (rows_Bh[:, :, None] * width + columns_Bw[:, None, :]).flatten(1)
    planes_BXP = frames_BFCHW.flatten(3).flatten(1, 2)
    cut_BXP = planes_BXP.gather(2, index_BP[:, None].expand(-1, planes_BXP.shape[1], -1))
    return cut_BXP.view(*frames_BFCHW.shape[:3], *size)


def random_shift(frames_BFCHW: Tensor, pixels: int, generator: torch.Generator) -> Tensor:
    """Moves every window by a whole number of pixels, up to `pixels` each way, edges repeated (Yarats et al. 2021).

    All frames of a window move alike: motion between them is what a policy reads.

    The offsets are drawn on the generator's device, so a CPU generator gives the same ones for frames on any device.

    Raises:
        ValueError: frames that are not `[B, F, C, H, W]`; `pixels` below 0 or not below the sides.
    """
    height, width = _sides(frames_BFCHW)
    if not 0 <= pixels < min(height, width):
        raise ValueError(f"shift of {pixels} pixels for frames of {height} x {width}, expected 0 to below their sides")
    offsets_2B = _draw(-pixels, pixels, (2, frames_BFCHW.shape[0]), generator)
    return crop(frames_BFCHW, offsets_2B[0], offsets_2B[1], (height, width))


def random_crop(frames_BFCHW: Tensor, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Cuts `size` (height, width) out of every window at a random place inside the image, the same for its frames.

    Raises:
        ValueError: frames that are not `[B, F, C, H, W]`, or a size that is not within the image.
    """
    height, width = _checked(frames_BFCHW, size)
    batch = frames_BFCHW.shape[0]
    top_B = _draw(0, height - size[0], (batch,), generator)
    left_B = _draw(0, width - size[1], (batch,), generator)
    return crop(frames_BFCHW, top_B, left_B, size)


def center_crop(frames_BFCHW: Tensor, size: tuple[int, int]) -> Tensor:
    """What to show a policy that was trained on random crops of `size`; no copy.

    Raises:
        ValueError: as `random_crop`.
    """
    height, width = _checked(frames_BFCHW, size)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    return frames_BFCHW[..., top : top + size[0], left : left + size[1]]


def _window(first_B: Tensor, length: int, limit: int, device: torch.device) -> Tensor:
    return (first_B.to(device)[:, None] + torch.arange(length, device=device)).clamp(0, limit - 1)


def _draw(low: int, high: int, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    return torch.randint(low, high + 1, shape, generator=generator, device=generator.device)


def _sides(frames_BFCHW: Tensor) -> tuple[int, int]:
    if frames_BFCHW.ndim != 5:
        raise ValueError(
            f"frames have shape {tuple(frames_BFCHW.shape)}, expected [batch, frames, channels, height, width]"
        )
    return frames_BFCHW.shape[3], frames_BFCHW.shape[4]


def _checked(frames_BFCHW: Tensor, size: tuple[int, int]) -> tuple[int, int]:
    height, width = _sides(frames_BFCHW)
    if not (0 < size[0] <= height and 0 < size[1] <= width):
        raise ValueError(f"crop of {size[0]} x {size[1]} pixels from frames of {height} x {width}, expected no more")
    return height, width
