"""Camera frames that are moved a little at random, as a source of batches like any other."""

from __future__ import annotations

from dataclasses import replace

import torch

from qseq.episodes import WindowBatch, Windows
from qseq.networks.observation import is_image
from qseq.networks.vision import random_shift


class ShiftedWindows:
    """Windows whose images are shifted by up to `pixels` each way (DrQ-v2, Yarats et al. 2021).

    All frames of a window move alike, those it bootstraps from included. The shift is a pure function of the seed and
    the batch's index, so a resumed run sees the same pictures.
    """

    def __init__(self, windows: Windows, *, pixels: int, seed: int) -> None:
        self.windows = windows
        self.pixels = pixels
        self.seed = seed
        self._cameras = [name for name, field in windows.view.fields.items() if is_image(tuple(field.shape))]

    def batch_at(self, index: int) -> WindowBatch:
        """The index-th batch of the endless stream."""
        batch = self.windows.batch_at(index)
        # Seeds are spread by a large odd number, so that no two pairs of seed and index meet.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + index) % 2**63)
        shifted = {name: random_shift(batch.frames[name], self.pixels, generator) for name in self._cameras}
        return replace(batch, frames={**batch.frames, **shifted})
