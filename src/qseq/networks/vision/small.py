"""A small convolutional tower for images of 56 to 84 pixels, quick enough to train on a CPU.

Legend: B batch, C channels of the images or of the condition, H x W pixels, D features, h x w positions of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from qseq.networks.vision.film import FiLM, NullCondition, resolve_conditions
from qseq.networks.vision.in_parts import images_at_once, in_parts
from qseq.networks.vision.tower import AddPlace, centred, check_images, group_norm


class PixelStem(nn.Module):
    """Images -> their first map, of overlapping squares of 8 pixels at every fourth."""

    stride, least = 4, 8

    def __init__(self, channels: int, dim: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, dim, self.least, stride=self.stride, padding=self.stride // 2)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """`[B, C, H, W]`, checked (`check_images`) -> `[B, D, H / 4, W / 4]`."""
        out: Tensor = self.convolution(centred(images_BCHW, self.convolution.weight.dtype, torch.channels_last))
        return out


class PatchStem(nn.Module):
    """Images -> their first map, of patches that do not overlap (as a vision transformer; Dosovitskiy et al. 2021).

    It is a convolution with a stride as large as its kernel, done as one matrix product. The pixels are put in order
    while they are bytes, which takes less than half the time of a convolution over three channels on a CPU.
    """

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.stride = self.least = patch
        self.project = nn.Linear(channels * patch**2, dim)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """`[B, C, H, W]`, checked (`check_images`) -> `[B, D, H / patch, W / patch]`."""
        batch, channels, height, width = images_BCHW.shape
        rows, columns = height // self.stride, width // self.stride
        words = _eight_as_one(images_BCHW) if self.stride % 8 == 0 else images_BCHW
        squares = words.reshape(batch, channels, rows, self.stride, columns, -1)
        patches_BhwP = squares.permute(0, 2, 4, 1, 3, 5).contiguous().view(images_BCHW.dtype)
        patches_BhwP = patches_BhwP.reshape(batch, rows, columns, -1)
        out: Tensor = self.project(centred(patches_BhwP, self.project.weight.dtype)).permute(0, 3, 1, 2)
        return out


def _eight_as_one(images_BCHW: Tensor) -> Tensor:
    """Eight bytes in a row as one number, which are moved in the time of one; anything else as it is."""
    images_BCHW = images_BCHW.contiguous()
    bytes_in_memory = images_BCHW.dtype == torch.uint8 and not torch.compiler.is_compiling()
    return images_BCHW.view(torch.int64) if bytes_in_memory and images_BCHW.storage_offset() % 8 == 0 else images_BCHW


class GatedLayer(nn.Module):
    """At every position a hidden layer, each of whose features the instruction scales.

    There is no way around it and, unlike FiLM, it does not begin as the identity: what a position shows and what is
    asked for meet in a product from the first step on. Whether they match is then learnt in hundreds of steps, and in
    thousands where an instruction only bends what is seen anyway.
    """

    def __init__(self, dim: int, hidden: int, *, condition_dim: int | None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.to_hidden = nn.Linear(dim, hidden)
        self.to_scale = nn.Linear(condition_dim, hidden) if condition_dim is not None else None
        self.to_out = nn.Linear(hidden, dim)
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, x_BDhw: Tensor, conditions_BC: Tensor | None) -> Tensor:
        """`[B, D, h, w]` -> the same shape."""
        hidden_BhwX = self.to_hidden(self.norm(x_BDhw.permute(0, 2, 3, 1)))
        if self.to_scale is not None and conditions_BC is not None:
            hidden_BhwX = hidden_BhwX * (1 + self.to_scale(conditions_BC)[:, None, None])
        out_BhwD: Tensor = self.out_norm(self.to_out(functional.gelu(hidden_BhwX)))
        return out_BhwD.permute(0, 3, 1, 2)


class ResidualBlock(nn.Module):
    """Two convolutions on a residual path, before the second one the instruction's scale and shift.

    Norm and activation come before a convolution (He et al. 2016b); FiLM follows the norm (Perez et al. 2018).
    """

    def __init__(self, dim: int, *, condition_dim: int | None) -> None:
        super().__init__()
        self.first_norm = group_norm(dim)
        self.first = nn.Conv2d(dim, dim, 3, padding=1)
        self.second_norm = group_norm(dim)
        self.film = FiLM(condition_dim, dim) if condition_dim is not None else None
        self.second = nn.Conv2d(dim, dim, 3, padding=1)

    def forward(self, x_BDhw: Tensor, conditions_BC: Tensor | None) -> Tensor:
        """`[B, D, h, w]` -> the same shape."""
        hidden_BDhw = self.second_norm(self.first(functional.silu(self.first_norm(x_BDhw))))
        if self.film is not None and conditions_BC is not None:
            hidden_BDhw = self.film(hidden_BDhw, conditions_BC)
        out: Tensor = x_BDhw + self.second(functional.silu(hidden_BDhw))
        return out


class ConvTower(nn.Module):
    """Residual convolutional network in the manner of IMPALA (Espeholt et al. 2018, figure 3), conditioned if asked.

    Differences: the first convolution already reduces the image fourfold, which is what makes it quick; group norm; and
    every position is told where it lies (`AddPlace`).

    With the default sizes an image of 56 x 56 x 3 costs 9.3 million multiply-adds forward (19 MFLOP) and gives 7 x 7
    positions of 64 features; 84 x 84 gives 11 x 11 and costs 2.4 times as much.

    Args:
        dim: features of the first stage; stage i has `dim * 2 ** i`.
        depth: residual blocks of each stage; every stage but the first halves the map.
        patch: side in pixels of patches that the stem reads, see `PatchStem`; 0 for a `PixelStem`. Patches are for
            pictures made of tiles.
        gated: width of a `GatedLayer` after the stem; 0 for none.
        channels: C of the images.
        condition_dim: size of the instruction embedding; None for a tower that takes none.
        checkpoint_activations: in training, keep only the inputs of blocks and compute the rest again when going
            backwards, on a CPU for a few images at a time.

    Raises:
        ValueError: no stage.
    """

    def __init__(
        self,
        *,
        dim: int = 32,
        depth: Sequence[int] = (1, 1),
        patch: int = 0,
        gated: int = 0,
        channels: int = 3,
        condition_dim: int | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if not depth or min(depth) < 0:
            raise ValueError(f"depth is {tuple(depth)}, expected at least one stage, none of less than 0 blocks")
        self.channels = channels
        self.condition_dim = condition_dim
        self.checkpoint_activations = checkpoint_activations
        self.num_stages = len(depth)
        self.out_dim = dim * 2 ** (self.num_stages - 1)
        self.null_condition = NullCondition(condition_dim) if condition_dim is not None else None
        self.stem = PatchStem(channels, dim, patch) if patch else PixelStem(channels, dim)
        self.place = AddPlace(dim)
        self.gated = GatedLayer(dim, gated, condition_dim=condition_dim) if gated else None
        self.layers = nn.ModuleList()
        for stage, num_blocks in enumerate(depth):
            if stage > 0:
                self.layers.append(nn.Conv2d(dim, 2 * dim, 3, stride=2, padding=1))
                dim *= 2
            self.layers.extend(ResidualBlock(dim, condition_dim=condition_dim) for _ in range(num_blocks))
        self.norm = group_norm(dim)

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels of an image -> positions (h, w) of its feature map.

        Raises:
            ValueError: a side that is not a multiple of 4, or below 8; with patches, of theirs.
        """
        stride, least = self.stem.stride, self.stem.least
        for name, side in (("height", height), ("width", width)):
            if side % stride or side < least:
                raise ValueError(
                    f"images of {height} x {width} pixels: the {name} is {side}, expected a multiple of {stride} from "
                    f"{least} on"
                )
        halving = 2 ** (self.num_stages - 1)
        rows, columns = height // stride, width // stride
        return -(-rows // halving), -(-columns // halving)

    def forward(self, images_BCHW: Tensor, conditions: Tensor | None = None, return_embeddings: bool = True) -> Tensor:
        """Feature map `[B, out_dim, h, w]`; `return_embeddings` changes nothing, as there is no class head to skip.

        `images_BCHW` is uint8 in [0, 255] or floating in [0, 1]. `conditions`, `[B, condition_dim]`, embeds the
        instructions; a conditioned tower without them reads its learnt null instruction.

        Raises:
            ValueError: images of a wrong size, number of channels or type; conditions of a wrong shape, or for an
                unconditioned tower.
        """
        check_images(images_BCHW, channels=self.channels)
        self.feature_size(*images_BCHW.shape[2:])
        conditions_BC = resolve_conditions(self.null_condition, conditions, batch=images_BCHW.shape[0])
        x_BDhw = self.place(self.stem(images_BCHW))
        if self.gated is not None:
            x_BDhw = self.gated(x_BDhw, conditions_BC)
        recompute = self.training and torch.is_grad_enabled()
        for layer in self.layers:
            if not isinstance(layer, ResidualBlock):
                x_BDhw = layer(x_BDhw)
            elif self.checkpoint_activations:
                at_once = images_at_once(x_BDhw)
                x_BDhw = in_parts(layer, x_BDhw, conditions_BC, at_once=at_once, recompute=recompute)
            else:
                x_BDhw = layer(x_BDhw, conditions_BC)
        out: Tensor = self.norm(x_BDhw)
        return out
