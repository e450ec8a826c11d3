"""The memory of what was done before -> tokens that others attend to.

Legend: B batch, F frames of history, m actions that are remembered, W numbers of one of them, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from qseq.networks.text import Instruction


class PastActionEncoder(nn.Module):
    """Each past action becomes a token, by how long ago it was; a learnt one stands where there was none.

    Action tokens attend to them as to all tokens of the observation, so a decision knows what the last ones were, and
    what came of them (the frames). In training the whole memory of a sample is dropped at times (structured memory
    dropout): what was done before explains what is done next all too well, and must not take the place of looking
    (causal confusion; de Haan et al. 2019).

    Args:
        shape: (m, W), as `PastActions` lays it out: the last number says whether there was an action.
        drop_probability: share of the training samples without a memory.
    """

    def __init__(self, shape: tuple[int, ...], dim: int, *, drop_probability: float = 0.0) -> None:
        super().__init__()
        self.tokens, width = shape
        self.drop_probability = drop_probability
        self.project = nn.Linear(width, dim)
        self.age_mD = nn.Parameter(torch.randn(self.tokens, dim) * 0.02)
        self.absent_D = nn.Parameter(torch.randn(dim) * 0.02)

    def forward(self, actions_BFmW: Tensor, instruction: Instruction) -> Tensor:
        """`[B, F, m, W]` -> `[B, F, m, D]`."""
        present_BFm1 = actions_BFmW[..., -1:] > 0
        if self.training and self.drop_probability:
            kept_B = torch.rand(len(actions_BFmW), device=actions_BFmW.device) >= self.drop_probability
            present_BFm1 = present_BFm1 & kept_B[:, None, None, None]
        tokens_BFmD = self.project(actions_BFmW.to(self.project.weight.dtype))
        return torch.where(present_BFm1, tokens_BFmD, self.absent_D.to(tokens_BFmD.dtype)) + self.age_mD
