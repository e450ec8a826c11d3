"""Values of states by several networks, so that no episode is judged by a network that was trained on it.

Legend: B batch, K folds, F frames of history, S tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from qseq.networks.dropout import Dropout
from qseq.networks.observation import FieldLayout, VectorEncoder
from qseq.networks.text import Instruction
from qseq.observations import is_image


class FoldedStateValue(nn.Module):
    """K small networks that share nothing but the cameras: observation and instruction -> K values of the same state.

    Trained each on all episodes but those of its fold, they give every episode a value that generalises from the
    others (cross-fitting; Chernozhukov et al. 2018, definition 3.1). What a camera shows is read from the tokens that
    the policy's tower made of it, without training the tower: it runs once for both.

    Args:
        fields: layout of every observation field.
        history: F.
        dim: D, the width of the cameras' tokens and of the instruction.
        camera_tokens: tokens of a frame, for each camera.
        outputs: numbers of one value.
        initial_logit: where every value starts.
    """

    def __init__(
        self,
        fields: Mapping[str, FieldLayout],
        *,
        folds: int,
        history: int,
        dim: int,
        camera_tokens: Mapping[str, int],
        outputs: int,
        initial_logit: float,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.folds = nn.ModuleList(
            _StateValue(fields, history, dim, sum(camera_tokens.values()), outputs, initial_logit, dropout)
            for _ in range(folds)
        )

    def forward(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor]
    ) -> Tensor:
        """Fields `[B, F, *shape]`, cameras' tokens `[B, F, tokens, D]` -> logits `[B, K, outputs]`.

        Neither the instruction's embedding nor the cameras' tokens get a gradient.
        """
        instruction = Instruction(instruction.summary_BD.detach())
        seen = {name: tokens.detach() for name, tokens in seen.items()}
        return torch.stack([fold(observation, instruction, seen) for fold in self.folds], dim=1)


class _StateValue(nn.Module):
    def __init__(
        self,
        fields: Mapping[str, FieldLayout],
        history: int,
        dim: int,
        camera_tokens: int,
        outputs: int,
        initial_logit: float,
        dropout: float,
    ) -> None:
        super().__init__()
        self.vectors = tuple(name for name, layout in fields.items() if not is_image(layout.shape))
        self.encoders = nn.ModuleList(VectorEncoder(fields[name], dim) for name in self.vectors)
        tokens = history * (len(self.vectors) + camera_tokens)
        self.instruction = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(tokens * dim)
        self.hidden = nn.Linear(tokens * dim, 2 * dim)
        self.output = nn.Linear(2 * dim, outputs)
        nn.init.constant_(self.output.bias, initial_logit)
        self.dropout = Dropout(dropout)

    def forward(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor]
    ) -> Tensor:
        encoded = [
            encoder(observation[name], instruction) for name, encoder in zip(self.vectors, self.encoders, strict=True)
        ]
        x_BFSD = torch.cat([*encoded, *seen.values()], dim=2) + self.instruction(instruction.summary_BD)[:, None, None]
        x = self.dropout(nn.functional.gelu(self.norm(x_BFSD.flatten(1))))
        x = self.dropout(nn.functional.gelu(self.hidden(x)))
        out: Tensor = self.output(x)
        return out
