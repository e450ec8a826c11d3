"""A small instruction encoder trained from scratch: no download, any language, fixed size.

Legend: B batch, W words and pairs of the longest instruction, D width.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_PADDING = 0


def word_ids(texts: Sequence[str], *, vocabulary: int) -> Tensor:
    """Words and pairs of neighbouring words hashed to `[1, vocabulary)`, padded with 0: int64 `[B, W]`, W at least 1.

    The pairs keep "red left of blue" apart from "blue left of red" (fastText, Joulin et al. 2017, section 2.1).
    """
    rows = [[_hashed(piece, vocabulary) for piece in _pieces(text)] for text in texts]
    width = max(1, max((len(row) for row in rows), default=1))
    return torch.tensor([row + [_PADDING] * (width - len(row)) for row in rows], dtype=torch.long).reshape(-1, width)


def _pieces(text: str) -> list[str]:
    words = re.findall(r"\w+", text.lower())
    return [*words, *(f"{first} {second}" for first, second in pairwise(words))]


def _hashed(piece: str, vocabulary: int) -> int:
    # CRC-32 rather than `hash`, which differs between processes.
    return 1 + zlib.crc32(piece.encode()) % (vocabulary - 1)


class InstructionEncoder(nn.Module):
    """Embeds hashed words and pairs of words, averages them and passes the mean through a small network.

    An empty instruction gives a learnt null vector.
    """

    def __init__(self, dim: int, *, vocabulary: int = 1024) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.words = nn.Embedding(vocabulary, dim, padding_idx=_PADDING)
        self.null_D = nn.Parameter(torch.randn(dim) * 0.02)
        self.network = nn.Sequential(nn.Linear(dim, dim), nn.GELU(), nn.Linear(dim, dim))

    def forward(self, word_ids_BW: Tensor) -> Tensor:
        """`[B, W]` hashed words (`word_ids`) -> `[B, D]`."""
        present_BW1 = (word_ids_BW != _PADDING).unsqueeze(-1)
        count_B1 = present_BW1.sum(1)
        embedded_BWD = self.words(word_ids_BW) * present_BW1
        mean_BD = self.network(embedded_BWD.sum(1) / count_B1.clamp(min=1))
        return torch.where(count_B1 > 0, mean_BD, self.null_D.to(mean_BD.dtype))
