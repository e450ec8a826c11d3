"""A camera's frames -> tokens the transformer can read.

Legend: B batch, F frames of history, C channels, H x W pixels, S tokens of a frame, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from qseq.networks.vision import ConvTower, TokenLearner


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """Sizes of what reads a camera."""

    dim: int = 32
    """Features of the tower's first stage; every later one has twice as many."""
    depth: tuple[int, ...] = (1, 1)
    """Residual blocks of each stage."""
    tokens: int = 8
    """Tokens of a frame."""


class CameraEncoder(nn.Module):
    """Convolutional tower conditioned on the instruction at every block, then TokenLearner (RT-1, Brohan et al. 2022).

    Args:
        shape: of a frame, (C, H, W).
        dim: D, also of the instruction's embedding.

    Raises:
        ValueError: a side of the frame that the tower cannot take.
    """

    def __init__(self, shape: tuple[int, ...], dim: int, config: VisionConfig) -> None:
        super().__init__()
        channels, height, width = shape
        self.tower = ConvTower(dim=config.dim, depth=config.depth, channels=channels, condition_dim=dim)
        self.tower.feature_size(height, width)
        self.token_learner = TokenLearner(self.tower.out_dim, num_output_tokens=config.tokens)
        self.project = nn.Linear(self.tower.out_dim, dim)
        self.tokens = config.tokens

    def forward(self, frames_BFCHW: Tensor, instruction_BD: Tensor) -> Tensor:
        """`[B, F, C, H, W]`, uint8 or floating in [0, 1] -> `[B, F, S, D]`."""
        batch, frames = frames_BFCHW.shape[:2]
        maps = self.tower(frames_BFCHW.flatten(0, 1), instruction_BD.repeat_interleave(frames, 0))
        out: Tensor = self.project(self.token_learner(maps)).unflatten(0, (batch, frames))
        return out
