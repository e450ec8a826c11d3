"""MaxViT: convolution, attention to neighbours and attention to the whole map in every block.

Legend: B batch, C channels of the images or of the condition, H x W pixels, D features, h x w positions of a map.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from qseq.networks.vision.config import MaxViTConfig
from qseq.networks.vision.film import FiLM, NullCondition, resolve_conditions
from qseq.networks.vision.in_parts import images_at_once, in_parts
from qseq.networks.vision.mbconv import MBConv
from qseq.networks.vision.tower import AddPlace, ChannelLayerNorm, group_norm, prepare_images
from qseq.networks.vision.window_attention import PartitionAttention


class MaxViTBlock(nn.Module):
    """MBConv, FiLM, block attention, grid attention (Tu et al. 2022, figure 2; FiLM as in RT-1, Brohan et al. 2022)."""

    def __init__(
        self,
        dim_in: int,
        dim: int,
        *,
        stride: int,
        heads: int,
        dim_head: int,
        window_size: int,
        mbconv_expansion_rate: float,
        mbconv_shrinkage_rate: float,
        dropout: float,
        use_layernorm: bool,
        condition_dim: int | None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.stride = stride
        self.mbconv = MBConv(
            dim_in,
            dim,
            stride=stride,
            expansion_rate=mbconv_expansion_rate,
            shrinkage_rate=mbconv_shrinkage_rate,
            dropout=dropout,
            make_norm=ChannelLayerNorm if use_layernorm else group_norm,
        )
        self.film = FiLM(condition_dim, dim) if condition_dim is not None else None
        self.block_attention = PartitionAttention(
            dim, kind="block", heads=heads, dim_head=dim_head, window_size=window_size, dropout=dropout
        )
        self.grid_attention = PartitionAttention(
            dim, kind="grid", heads=heads, dim_head=dim_head, window_size=window_size, dropout=dropout
        )

    def forward(self, x_BDhw: Tensor, conditions_BC: Tensor | None) -> Tensor:
        """`[B, dim_in, h, w]` -> `[B, dim, h / stride, w / stride]`."""
        x_BDhw = self.mbconv(x_BDhw)
        if self.film is not None and conditions_BC is not None:
            x_BDhw = self.film(x_BDhw, conditions_BC)
        x_BhwD = x_BDhw.permute(0, 2, 3, 1).contiguous()
        out_BhwD: Tensor = self.grid_attention(self.block_attention(x_BhwD))
        return out_BhwD.permute(0, 3, 1, 2)


class MaxViT(nn.Module):
    """Multi-axis vision transformer (Tu et al., ECCV 2022), conditioned on an instruction at every block if asked.

    The stem halves the image and so does the first block of every stage: with S stages a side of the image must be a
    multiple of `window_size * 2 ** (S + 1)`. Stage i has `dim * 2 ** i` features. Rotary positions are relative, and
    made for classes, which are the same anywhere; a robot must know where things are, so `AddPlace` follows the stem.

    Args:
        num_classes: logits of the class head; 0 for a tower without one.
        dim: features of the first stage.
        depth: blocks of each stage.
        dim_head: width of an attention head, a multiple of 4.
        heads: attention heads in every stage; by default as many as fill the stage's width.
        dim_conv_stem: features of the stem, by default `dim`.
        window_size: side of a window, and of a grid, in positions.
        mbconv_expansion_rate, mbconv_shrinkage_rate: widening inside a convolution block, and narrowing inside its
            squeeze-excitation.
        dropout: rate at which attention weights, outputs of attention and feed-forward layers, and whole samples of
            a convolution block's residual are dropped.
        channels: C of the images.
        use_layernorm: norm each position of convolution blocks over its features; else group norm. Neither uses
            statistics of the batch.
        condition_dim: size of the instruction embedding; None for a tower that takes none.
        checkpoint_activations: in training, keep only the inputs of blocks and compute the rest again when going
            backwards, on a CPU for a few images at a time: a fraction of the memory, about a third more time.

    Raises:
        ValueError: sizes that do not fit together.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        dim: int,
        depth: Sequence[int],
        dim_head: int = 32,
        heads: int | None = None,
        dim_conv_stem: int | None = None,
        window_size: int = 7,
        mbconv_expansion_rate: float = 4.0,
        mbconv_shrinkage_rate: float = 0.25,
        dropout: float = 0.1,
        channels: int = 3,
        use_layernorm: bool = True,
        condition_dim: int | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if not depth or min(depth) < 1:
            raise ValueError(f"depth is {tuple(depth)}, expected at least one stage, each of at least one block")
        if not 0 <= dropout < 1:
            raise ValueError(f"dropout is {dropout}, expected a rate from 0 to below 1")
        if heads is None and dim % dim_head:
            raise ValueError(f"dim is {dim}, expected a multiple of dim_head ({dim_head}) where heads are not given")
        self.config = MaxViTConfig(
            dim=dim,
            depth=tuple(depth),
            dim_head=dim_head,
            heads=heads,
            dim_conv_stem=dim_conv_stem,
            window_size=window_size,
            mbconv_expansion_rate=mbconv_expansion_rate,
            mbconv_shrinkage_rate=mbconv_shrinkage_rate,
            dropout=dropout,
            use_layernorm=use_layernorm,
        )
        self.channels = channels
        self.window_size = window_size
        self.condition_dim = condition_dim
        self.checkpoint_activations = checkpoint_activations
        self.num_stages = len(depth)
        self.out_dim = dim * 2 ** (self.num_stages - 1)

        width = dim_conv_stem or dim
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, stride=2, padding=1),
            ChannelLayerNorm(width) if use_layernorm else group_norm(width),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
        )
        self.place = AddPlace(width)
        self.null_condition = NullCondition(condition_dim) if condition_dim is not None else None
        self.blocks = nn.ModuleList()
        for stage, num_blocks in enumerate(depth):
            stage_dim = dim * 2**stage
            for index in range(num_blocks):
                self.blocks.append(
                    MaxViTBlock(
                        width,
                        stage_dim,
                        stride=2 if index == 0 else 1,
                        heads=heads or stage_dim // dim_head,
                        dim_head=dim_head,
                        window_size=window_size,
                        mbconv_expansion_rate=mbconv_expansion_rate,
                        mbconv_shrinkage_rate=mbconv_shrinkage_rate,
                        dropout=dropout,
                        use_layernorm=use_layernorm,
                        condition_dim=condition_dim,
                    )
                )
                width = stage_dim
        self.norm = ChannelLayerNorm(width)
        self.head = nn.Linear(width, num_classes) if num_classes > 0 else None

    def condition_on(self, condition_dim: int) -> None:
        """Makes every block of an unconditioned tower read instructions of this size; at first they change nothing.

        Raises:
            ValueError: the tower reads instructions of another size already.
        """
        if self.condition_dim is not None:
            if self.condition_dim != condition_dim:
                raise ValueError(f"condition_dim is {self.condition_dim}, expected {condition_dim} or None")
            return
        self.condition_dim = condition_dim
        self.null_condition = NullCondition(condition_dim)
        for block in self.blocks:
            assert isinstance(block, MaxViTBlock)
            block.film = FiLM(condition_dim, block.dim)

    @property
    def smallest_side(self) -> int:
        """Pixels of the smallest image it takes; sides are multiples of it."""
        return int(self.window_size * 2 ** (self.num_stages + 1))

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels of an image -> positions (h, w) of its feature map.

        Raises:
            ValueError: a side that the stages and windows do not divide.
        """
        stride = 2 ** (self.num_stages + 1)
        unit = self.smallest_side
        for name, side in (("height", height), ("width", width)):
            if side % unit or side < unit:
                raise ValueError(
                    f"images of {height} x {width} pixels: the {name} is {side}, expected a multiple of {unit} "
                    f"(window_size {self.window_size} times 2 for the stem and for each of {self.num_stages} stages)"
                )
        return height // stride, width // stride

    def forward(self, images_BCHW: Tensor, conditions: Tensor | None = None, return_embeddings: bool = False) -> Tensor:
        """Logits `[B, num_classes]`, or the feature map `[B, out_dim, h, w]` with `return_embeddings` or no head.

        `images_BCHW` is uint8 in [0, 255] or floating in [0, 1]. `conditions`, `[B, condition_dim]`, embeds the
        instructions; a conditioned tower without them reads its learnt null instruction.

        Raises:
            ValueError: images of a wrong size, number of channels or type; conditions of a wrong shape, or for an
                unconditioned tower.
        """
        images_BCHW = prepare_images(images_BCHW, channels=self.channels, dtype=self.norm.weight.dtype)
        self.feature_size(*images_BCHW.shape[2:])
        conditions_BC = resolve_conditions(self.null_condition, conditions, batch=images_BCHW.shape[0])
        x_BDhw = self.place(self.stem(images_BCHW))
        recompute = self.training and torch.is_grad_enabled()
        for block in self.blocks:
            assert isinstance(block, MaxViTBlock)
            if self.checkpoint_activations:
                at_once = images_at_once(x_BDhw, block.stride)
                x_BDhw = in_parts(block, x_BDhw, conditions_BC, at_once=at_once, recompute=recompute)
            else:
                x_BDhw = block(x_BDhw, conditions_BC)
        map_BDhw: Tensor = self.norm(x_BDhw)
        if return_embeddings or self.head is None:
            return map_BDhw
        logits: Tensor = self.head(map_BDhw.mean((2, 3)))
        return logits
