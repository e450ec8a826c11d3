"""Successes shown with an instruction that was not theirs, as a source of batches like any other.

Legend: B windows, N action steps.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from qseq.episodes import EpisodeView, WindowBatch
from qseq.errors import RequestError
from qseq.policies.endings import EndingBatch
from qseq.training import BatchSource


class MismatchedWindows:
    """Windows of successful episodes, some of which have the instruction of another episode and no reward at the end.

    What accomplishes one instruction rarely accomplishes another: pairs of the same pictures that differ in the words
    alone, and in what they are worth, say what the words mean (the negatives of LOReL; Nair et al. 2021).
    They end as they did, for nothing. To leave what follows to the value of the last state would be right even where
    the other instruction happens to fit, but a wrong deed would be worth whatever that value errs by, which is enough
    to prefer it to searching on.

    Windows change at random, as a pure function of the seed and the batch's index, so a resumed run sees the same ones.

    Args:
        windows: of the view.
        view: the episodes.
        share: of the windows of successful episodes, how many are changed.
        seed: of what is drawn.

    Raises:
        RequestError: the episodes have but one instruction, or none is a success.
    """

    def __init__(self, windows: BatchSource, view: EpisodeView, *, share: float, seed: int) -> None:
        if len(view.instructions) < 2 or not (view.success == 1).any():
            raise RequestError(
                f"objective.mismatched_share: found {share}, expected 0: the data have {len(view.instructions)} "
                f"instruction(s) and {int((view.success == 1).sum())} successful episodes"
            )
        self.windows = windows
        self.share = share
        self.seed = seed
        self._instruction_ids = torch.from_numpy(view.instruction_ids.astype(np.int64))
        self._successes = torch.from_numpy(view.success == 1)
        self._lengths = torch.from_numpy(view.lengths.astype(np.int64))

    def batch_at(self, index: int) -> WindowBatch:
        """The index-th batch of the endless stream."""
        batch: WindowBatch = self.windows.batch_at(index)
        if isinstance(batch, EndingBatch):  # which are shown with other instructions anyway
            return batch
        # Spread by a large odd number, so that runs of neighbouring seeds do not see each other's changes.
        generator = torch.Generator().manual_seed((self.seed * 0xD1B54A32D192ED03 + index) % 2**63)
        drawn_B = torch.rand(len(batch), generator=generator) < self.share
        others_B = torch.randint(len(self._instruction_ids), (len(batch),), generator=generator)
        told_B = self._instruction_ids[others_B]
        changed_B = drawn_B & self._successes[batch.episodes] & (told_B != batch.instruction_ids)
        ahead_N = torch.arange(batch.rewards.shape[1])
        last_BN = ahead_N == (self._lengths[batch.episodes] - 1 - batch.steps)[:, None]
        return replace(
            batch,
            instruction_ids=torch.where(changed_B, told_B, batch.instruction_ids),
            rewards=batch.rewards.masked_fill(changed_B[:, None] & last_BN, 0.0),
            achieved=batch.achieved & ~changed_B[:, None],
            # Its return under the other instruction is not known: it bounds no target.
            returns_to_go=batch.returns_to_go.masked_fill(changed_B, -torch.inf),
        )
