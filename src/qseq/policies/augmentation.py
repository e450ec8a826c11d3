"""Camera frames that are moved a little at random, as a source of batches like any other."""

from __future__ import annotations

from dataclasses import replace

import torch

from qseq.episodes import WindowBatch, Windows
from qseq.errors import RequestError
from qseq.networks.observation import is_image
from qseq.networks.vision import random_shift


class ShiftedWindows:
    """Windows whose images are shifted by up to `pixels` each way (DrQ-v2, Yarats et al. 2021).

    All frames of a window move alike, those it bootstraps from included. The shift is a pure function of the seed and
    the batch's index, so a resumed run sees the same pictures.

    Raises:
        RequestError: the data have no camera, or one with a side of no more than `pixels`.
    """

    def __init__(self, windows: Windows, *, pixels: int, seed: int) -> None:
        fields = windows.fields
        self._cameras = [name for name, field in fields.items() if is_image(tuple(field.shape))]
        if not self._cameras:
            raise RequestError(f"data.random_shift: found {pixels}, expected 0: the data have no camera")
        for name in self._cameras:
            side = min(fields[name].shape[1:])
            if pixels >= side:
                raise RequestError(
                    f"data.random_shift: found {pixels}, expected less than the {side} pixels of a side of '{name}'"
                )
        self.windows = windows
        self.pixels = pixels
        self.seed = seed

    def batch_at(self, index: int) -> WindowBatch:
        """The index-th batch of the endless stream."""
        batch = self.windows.batch_at(index)
        # Spread by a large odd number, so that runs of neighbouring seeds do not see each other's shifts.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + index) % 2**63)
        shifted = {name: random_shift(batch.frames[name], self.pixels, generator) for name in self._cameras}
        return replace(batch, frames={**batch.frames, **shifted})
