"""A small instruction encoder trained from scratch: no download, any language, fixed size.

Legend: B batch, W words of the longest instruction, D width.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_PADDING = 0


def word_ids(texts: Sequence[str], *, vocabulary: int) -> Tensor:
    """Words hashed to `[1, vocabulary)`, padded with 0: int64 `[B, W]`, W at least 1.

    CRC-32 is used rather than `hash`, which differs between processes.
    """
    rows = [[1 + zlib.crc32(word.encode()) % (vocabulary - 1) for word in re.findall(r"\w+", t.lower())] for t in texts]
    width = max(1, max((len(row) for row in rows), default=1))
    return torch.tensor([row + [_PADDING] * (width - len(row)) for row in rows], dtype=torch.long).reshape(-1, width)


class InstructionEncoder(nn.Module):
    """Embeds hashed words and their places, averages them and passes the mean through a small network.

    An empty instruction gives a learnt null vector.
    """

    def __init__(self, dim: int, *, vocabulary: int = 1024, max_words: int = 64) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.max_words = max_words
        self.words = nn.Embedding(vocabulary, dim, padding_idx=_PADDING)
        self.places_WD = nn.Parameter(torch.randn(max_words, dim) * 0.02)
        self.null_D = nn.Parameter(torch.randn(dim) * 0.02)
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))

    def forward(self, word_ids_BW: Tensor) -> Tensor:
        """`[B, W]` hashed words (`word_ids`) -> `[B, D]`."""
        word_ids_BW = word_ids_BW[:, : self.max_words]
        present_BW1 = (word_ids_BW != _PADDING).unsqueeze(-1)
        count_B1 = present_BW1.sum(1)
        embedded_BWD = (self.words(word_ids_BW) + self.places_WD[: word_ids_BW.shape[1]]) * present_BW1
        mean_BD = self.network(embedded_BWD.sum(1) / count_B1.clamp(min=1))
        return torch.where(count_B1 > 0, mean_BD, self.null_D.to(mean_BD.dtype))
