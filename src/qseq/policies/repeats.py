"""What was done before at the very same observation of an episode, so that it is not done again and again.

A policy without memory that errs a little turns left in one place and right in the next for ever. Where observations
return exactly, as in worlds of cells or in games, this ends such loops (a repetition penalty, as language models have;
Keskar et al. 2019, section 4.1).

Legend: B environments, K bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import torch
from torch import Tensor

from qseq.networks.decoding import Select


class Repeats:
    """Counts decisions of one token, by environment and observation, since the episode began.

    Args:
        penalty: taken off a bin's score for each time that it was chosen before.
        num_bins: K.
    """

    def __init__(self, penalty: float, num_bins: int) -> None:
        self.penalty = penalty
        self._num_bins = num_bins
        self._counts: dict[int, dict[bytes, np.ndarray]] = {}
        self._now: list[np.ndarray] = []

    def look(self, environments: Sequence[int], windows: Mapping[str, np.ndarray], texts: Sequence[str]) -> None:
        """What is seen now, `[B, ...]` each, and what is asked for."""
        self._now = []
        for row, environment in enumerate(environments):
            seen = blake2b(texts[row].encode(), digest_size=16)
            for name in sorted(windows):
                seen.update(np.ascontiguousarray(windows[name][row]).tobytes())
            counts = self._counts.setdefault(environment, {})
            self._now.append(counts.setdefault(seen.digest(), np.zeros(self._num_bins, np.float32)))

    def avoiding(self, select: Select) -> Select:
        """`select` by scores less the penalties; what it chooses counts as done where was last looked."""

        def choose(scores_BK: Tensor, position: int) -> Tensor:
            off_BK = torch.from_numpy(np.stack(self._now) * self.penalty).to(scores_BK.device)
            tokens_B = select(scores_BK - off_BK, position)
            for counts_K, token in zip(self._now, tokens_B.tolist(), strict=True):
                counts_K[token] += 1
            return tokens_B

        return choose

    def adopt(self, other: Repeats) -> None:
        """Go on with what another policy did."""
        if self._num_bins == other._num_bins:
            self._counts = other._counts

    def forget(self, environment_ids: Sequence[int] | None = None) -> None:
        """Episodes of these environments (of all by default) are over."""
        for environment in list(self._counts) if environment_ids is None else environment_ids:
            self._counts.pop(environment, None)
