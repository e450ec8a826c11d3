"""A feature map -> a few tokens, each looking where it learnt to look.

Legend: B batch, D features, h x w positions of the map, P = h * w, S tokens.
"""

from __future__ import annotations

from torch import Tensor, nn


class TokenLearner(nn.Module):
    """Every token is a weighted mean of all positions; the weights are a small network of the position's features.

    Version 1.1 of TokenLearner (Ryoo et al. 2021): a network of linear layers instead of convolutions, softmax over
    the positions instead of a sigmoid. Tokens are therefore convex combinations of the map's feature vectors.

    Args:
        dim: D.
        num_output_tokens: S.
        ff_mult: hidden width of the weighting network, in units of `dim`.
        num_layers: its linear layers.

    Raises:
        ValueError: fewer than one token or layer.
    """

    def __init__(self, dim: int, *, num_output_tokens: int = 8, ff_mult: int = 2, num_layers: int = 2) -> None:
        super().__init__()
        if num_output_tokens < 1 or num_layers < 1:
            raise ValueError(
                f"num_output_tokens is {num_output_tokens} and num_layers {num_layers}, expected at least 1 of each"
            )
        self.num_output_tokens = num_output_tokens
        layers: list[nn.Module] = [nn.LayerNorm(dim)]
        width = dim
        for _ in range(num_layers - 1):
            layers += [nn.Linear(width, ff_mult * dim), nn.GELU()]
            width = ff_mult * dim
        # Without a bias: the softmax would cancel it.
        self.to_logits = nn.Sequential(*layers, nn.Linear(width, num_output_tokens, bias=False))

    def weights(self, x_BDhw: Tensor) -> Tensor:
        """How much each token takes of each position, `[B, S, P]`, positions row by row; rows add up to one."""
        logits_BPS: Tensor = self.to_logits(x_BDhw.flatten(2).transpose(1, 2))
        return logits_BPS.transpose(1, 2).softmax(-1)

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """`[B, D, h, w]` -> tokens `[B, S, D]`."""
        return self.weights(x_BDhw).to(x_BDhw.dtype) @ x_BDhw.flatten(2).transpose(1, 2)
