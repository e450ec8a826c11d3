"""Values of states by several networks, so that no episode is judged by a network that was trained on it.

Legend: B batch, I instructions, K folds, F frames of history, S tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from qseq.networks.observation import tokens_of


class FoldedStateValue(nn.Module):
    """K small networks that share nothing: observation and instruction -> K values of the same state.

    Trained each on all episodes but those of its fold, they give every episode a value that generalises from the
    others (cross-fitting; Chernozhukov et al. 2018, definition 3.1).

    Args:
        make_encoders: field name -> new encoder of that field (`make_field_encoders`), called once a fold.
        history: F.
        outputs: numbers of one value.
        initial_logit: where every value starts.
    """

    def __init__(
        self,
        make_encoders: Callable[[], Mapping[str, nn.Module]],
        *,
        folds: int,
        history: int,
        dim: int,
        outputs: int,
        initial_logit: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.folds = nn.ModuleList(
            _StateValue(make_encoders(), history, dim, outputs, initial_logit, dropout) for _ in range(folds)
        )

    def forward(self, observation: Mapping[str, Tensor], instruction_BD: Tensor) -> Tensor:
        """Fields `[B, F, *shape]` -> logits `[B, K, outputs]`. The instruction's embedding gets no gradient."""
        instruction_BD = instruction_BD.detach()
        return torch.stack([fold(observation, instruction_BD) for fold in self.folds], dim=1)


class _StateValue(nn.Module):
    def __init__(
        self,
        encoders: Mapping[str, nn.Module],
        history: int,
        dim: int,
        outputs: int,
        initial_logit: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.fields = tuple(encoders)
        self.encoders = nn.ModuleList(encoders.values())
        tokens = history * tokens_of(encoders)
        self.instruction = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(tokens * dim)
        self.hidden = nn.Linear(tokens * dim, 2 * dim)
        self.output = nn.Linear(2 * dim, outputs)
        nn.init.constant_(self.output.bias, initial_logit)
        self.dropout = nn.Dropout(dropout)

    def forward(self, observation: Mapping[str, Tensor], instruction_BD: Tensor) -> Tensor:
        encoded = [
            encoder(observation[name], instruction_BD) for name, encoder in zip(self.fields, self.encoders, strict=True)
        ]
        x_BFSD = torch.cat(encoded, dim=2) + self.instruction(instruction_BD)[:, None, None]
        x = self.dropout(nn.functional.gelu(self.norm(x_BFSD.flatten(1)), approximate="tanh"))
        x = self.dropout(nn.functional.gelu(self.hidden(x), approximate="tanh"))
        out: Tensor = self.output(x)
        return out
