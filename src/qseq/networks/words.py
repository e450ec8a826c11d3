"""Texts as numbers that a table of embeddings knows. Needs no torch, so that robots without it hash the same way."""

from __future__ import annotations

import re
import zlib
from itertools import pairwise


def hashed_words(text: str, vocabulary: int) -> list[int]:
    """Its words and pairs of neighbouring words, hashed to `[1, vocabulary)`; 0 is left for padding.

    The pairs keep "red left of blue" apart from "blue left of red" (fastText, Joulin et al. 2017, section 2.1).
    """
    words = re.findall(r"\w+", text.lower())
    pieces = [*words, *(f"{first} {second}" for first, second in pairwise(words))]
    # CRC-32 rather than `hash`, which differs between processes.
    return [1 + zlib.crc32(piece.encode()) % (vocabulary - 1) for piece in pieces]
