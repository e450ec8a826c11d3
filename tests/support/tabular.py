"""A table in the place of a network: a logit for every (state, prefix of tokens, bin).

Legend: B batch, S states, A action tokens of one decision, P tokens of a prefix, K bins, F frames of history.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from qseq.networks.text import Instruction
from qseq.values import UnboundedValue, ValueTransform

from .mdp import DISCOUNT, Floats, Mdp, chunk_q, lottery, n_step_q, optimal_q, prefix_q, random_mdp
from .trails import empirical_n_step_q, path_episodes, stored, trail_episodes

__all__ = [
    "DISCOUNT",
    "Mdp",
    "TabularQ",
    "chunk_q",
    "empirical_n_step_q",
    "lottery",
    "n_step_q",
    "optimal_q",
    "path_episodes",
    "prefix_q",
    "random_mdp",
    "stored",
    "trail_episodes",
]


class TabularQ(nn.Module):
    """`forward(state_index_B, tokens_BA) -> [B, A, K]`: logits of every bin of each token given the true ones before.

    Also offers what the robot objective asks of a network: `embed_instructions`, `encode` (of a one-hot "state"),
    `decode`.
    """

    def __init__(
        self,
        num_states: int,
        num_tokens: int,
        num_bins: int,
        values: ValueTransform | None = None,
        initial: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_tokens, self.num_bins = num_tokens, num_bins
        self.values = values or UnboundedValue()
        shape = self.values.atom_shape
        self.tables = nn.ParameterList(
            torch.full((num_states, num_bins**token, num_bins, *shape), initial) for token in range(num_tokens)
        )

    def forward(self, state_index_B: Tensor, tokens_BA: Tensor) -> Tensor:
        return self._logits(state_index_B, tokens_BA[:, : self.num_tokens - 1])

    def embed_instructions(self, inputs: Tensor, rows_B: Tensor) -> Instruction:
        return Instruction(torch.zeros(len(rows_B), 1))

    def see(self, observation: Mapping[str, Tensor], instruction: Instruction) -> dict[str, Tensor]:
        return {}

    def encode(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """The newest frame of the one-hot state [B, F, S], as a context [B, 1, S]."""
        return observation["state"][:, -1:]

    def decode(self, context_BSD: Tensor, prefix_BP: Tensor) -> Tensor:
        return self._logits(context_BSD[:, 0].argmax(dim=-1), prefix_BP)

    def _logits(self, state_index_B: Tensor, prefix_BP: Tensor) -> Tensor:
        """[B, P + 1, K, *atom_shape]."""
        prefix_index_B = torch.zeros_like(state_index_B)
        rows = []
        for token in range(prefix_BP.shape[1] + 1):
            if token:
                prefix_index_B = prefix_index_B * self.num_bins + prefix_BP[:, token - 1]
            rows.append(self.tables[token][state_index_B, prefix_index_B])
        return torch.stack(rows, dim=1)

    def cells(self, state_index_B: Tensor, tokens_BA: Tensor) -> list[Tensor]:
        """For each token the cell it takes, a flat index [B] into its table (scalar logits only)."""
        cells, index_B = [], state_index_B
        for token in range(self.num_tokens):
            index_B = index_B * self.num_bins + tokens_BA[:, token]
            cells.append(index_B)
        return cells

    def sums(self, cells: list[Tensor], values_BA: Tensor) -> list[Tensor]:
        """What falls into each cell, added up, laid out like the tables."""
        return [
            torch.bincount(cells_B, weights=values_B, minlength=table.numel()).reshape(table.shape)
            for cells_B, values_B, table in zip(cells, values_BA.unbind(1), self.tables, strict=True)
        ]

    @torch.no_grad()
    def q(self) -> list[Floats]:
        """The values of the tables, laid out like `prefix_q`."""
        return [self.values.values(table).double().numpy() for table in self.tables]

    def worst_error(self, expected: list[Floats], where: np.ndarray | list[Tensor]) -> float:
        """Largest difference from `expected` (laid out like `prefix_q`) over all prefixes.

        `where` chooses states by a mask, or cells by how much fell into them.
        """
        worst = 0.0
        for token, (found, exact) in enumerate(zip(self.q(), expected, strict=True)):
            chosen = where if isinstance(where, np.ndarray) else where[token].numpy() > 0
            worst = max(worst, float(np.abs(found - exact)[chosen].max()))
        return worst
