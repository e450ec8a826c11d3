"""A feature map -> a few tokens, each looking where it learnt to look.

Legend: B batch, C size of the condition (an instruction embedding), D features, E size of a key, h x w positions of the
map, P = h * w, S tokens.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_KEY_DIM = 32


class TokenLearner(nn.Module):
    """Every token is a weighted mean of all positions; the weights are a small network of the position's features.

    Version 1.1 of TokenLearner (Ryoo et al. 2021): a network of linear layers instead of convolutions, softmax over
    the positions instead of a sigmoid. Tokens are therefore convex combinations of the map's feature vectors.

    Given instructions, a token also asks for what its instruction names: to its weights' logits is added the product
    of a query, linear in the condition, with a key of every position (attention; Vaswani et al. 2017, section 3.2.1).
    Finding what an instruction speaks of is then one layer's work instead of that of the whole tower.

    Args:
        dim: D.
        num_output_tokens: S.
        ff_mult: hidden width of the weighting network, in units of `dim`.
        num_layers: its linear layers.
        condition_dim: C; None for tokens that read no instruction.
        initial_sharpness: how much larger than usual the weighting network's last layer begins. With 1 a token begins
            as the mean of nearly all positions, of which each has little to say; with 5 it begins with some of its own.

    Raises:
        ValueError: fewer than one token or layer.
    """

    def __init__(
        self,
        dim: int,
        *,
        num_output_tokens: int = 8,
        ff_mult: int = 2,
        num_layers: int = 2,
        condition_dim: int | None = None,
        initial_sharpness: float = 1.0,
    ) -> None:
        super().__init__()
        if num_output_tokens < 1 or num_layers < 1:
            raise ValueError(
                f"num_output_tokens is {num_output_tokens} and num_layers {num_layers}, expected at least 1 of each"
            )
        self.num_output_tokens = num_output_tokens
        self.norm = nn.LayerNorm(dim)
        layers: list[nn.Module] = []
        width = dim
        for _ in range(num_layers - 1):
            layers += [nn.Linear(width, ff_mult * dim), nn.GELU()]
            width = ff_mult * dim
        # Without a bias: the softmax would cancel it.
        last = nn.Linear(width, num_output_tokens, bias=False)
        with torch.no_grad():
            last.weight *= initial_sharpness
        self.to_logits = nn.Sequential(*layers, last)
        self.to_queries: nn.Linear | None = None
        if condition_dim is not None:
            self.to_queries = nn.Linear(condition_dim, num_output_tokens * _KEY_DIM, bias=False)
            self.to_keys = nn.Linear(dim, _KEY_DIM)

    def weights(self, x_BDhw: Tensor, conditions_BC: Tensor | None = None) -> Tensor:
        """How much each token takes of each position, `[B, S, P]`, positions row by row; rows add up to one."""
        normed_BPD = self.norm(x_BDhw.flatten(2).transpose(1, 2))
        logits_BSP: Tensor = self.to_logits(normed_BPD).transpose(1, 2)
        if self.to_queries is not None and conditions_BC is not None:
            queries_BSE = self.to_queries(conditions_BC).unflatten(1, (self.num_output_tokens, _KEY_DIM))
            logits_BSP = logits_BSP + queries_BSE @ self.to_keys(normed_BPD).transpose(1, 2) / math.sqrt(_KEY_DIM)
        return logits_BSP.softmax(-1)

    def forward(self, x_BDhw: Tensor, conditions_BC: Tensor | None = None) -> Tensor:
        """`[B, D, h, w]` and, if built for them, conditions `[B, C]` -> tokens `[B, S, D]`."""
        return self.weights(x_BDhw, conditions_BC).to(x_BDhw.dtype) @ x_BDhw.flatten(2).transpose(1, 2)
