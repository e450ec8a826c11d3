"""Camera frames that are moved or cut a little at random, as a source of batches like any other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import torch
from torch import Tensor

from qseq.episodes import WindowBatch, Windows
from qseq.errors import RequestError
from qseq.networks.vision import random_crop, random_shift
from qseq.observations import is_image
from qseq.policies.endings import EndingsFirst


class AugmentedWindows(ABC):
    """Windows whose images are changed at random.

    All frames of a window change alike, those it bootstraps from included. The change is a pure function of the seed
    and the batch's index, so a resumed run sees the same pictures.

    Raises:
        RequestError: the data have no camera, or one with a side that `_fits` refuses.
    """

    option: str
    """The setting that asked for it."""

    def __init__(self, windows: Windows | EndingsFirst, *, pixels: int, seed: int) -> None:
        self.windows = windows
        self.pixels = pixels
        self.seed = seed
        fields = windows.fields
        self._cameras = [name for name, field in fields.items() if is_image(tuple(field.shape))]
        if not self._cameras:
            raise RequestError(f"{self.option}: found {pixels}, expected 0: the data have no camera")
        for name in self._cameras:
            side = min(fields[name].shape[1:])
            if not self._fits(side):
                raise RequestError(
                    f"{self.option}: found {pixels}, expected {self._expected(side)} pixels of a side of '{name}'"
                )

    def batch_at(self, index: int) -> WindowBatch:
        """The index-th batch of the endless stream."""
        batch = self.windows.batch_at(index)
        # Spread by a large odd number, so that runs of neighbouring seeds do not see each other's changes.
        generator = torch.Generator().manual_seed((self.seed * 0x9E3779B97F4A7C15 + index) % 2**63)
        changed = {name: self._change(batch.frames[name], generator) for name in self._cameras}
        return replace(batch, frames={**batch.frames, **changed})

    @abstractmethod
    def _fits(self, side: int) -> bool: ...

    @abstractmethod
    def _expected(self, side: int) -> str: ...

    @abstractmethod
    def _change(self, frames_BFCHW: Tensor, generator: torch.Generator) -> Tensor: ...


class ShiftedWindows(AugmentedWindows):
    """Images shifted by up to `pixels` each way (DrQ-v2, Yarats et al. 2021)."""

    option = "data.random_shift"

    def _fits(self, side: int) -> bool:
        return self.pixels < side

    def _expected(self, side: int) -> str:
        return f"less than the {side}"

    def _change(self, frames_BFCHW: Tensor, generator: torch.Generator) -> Tensor:
        return random_shift(frames_BFCHW, self.pixels, generator)


class CroppedWindows(AugmentedWindows):
    """Squares of `pixels` x `pixels` cut out of the images (RAD, Laskin et al. 2020); a policy sees the middle one."""

    option = "data.random_crop"

    def _fits(self, side: int) -> bool:
        return self.pixels <= side

    def _expected(self, side: int) -> str:
        return f"at most the {side}"

    def _change(self, frames_BFCHW: Tensor, generator: torch.Generator) -> Tensor:
        return random_crop(frames_BFCHW, (self.pixels, self.pixels), generator)
