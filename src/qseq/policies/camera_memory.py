"""What cameras' frames gave when they were new, so that a decision encodes only those not seen before.

Legend: B rows of a batch, F frames of history, S tokens of a frame, D width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qseq.networks.text import Instruction

Frames = Mapping[str, Tensor]
See = Callable[[Frames, Instruction], Mapping[str, Tensor]]


@dataclass(frozen=True)
class ShownFrames:
    """Which frames a batch of windows holds: of which environment, and the how-manieth since its last reset."""

    environments: Sequence[int]
    numbers_BF: np.ndarray

    def __getitem__(self, rows: Sequence[int]) -> ShownFrames:
        return ShownFrames([self.environments[row] for row in rows], self.numbers_BF[list(rows)])


class CameraMemory:
    """Tokens of the cameras' frames that the newest window of each environment holds.

    A frame's tokens depend on that frame's fields and the instruction only; another instruction forgets them.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[str, dict[int, dict[str, Tensor]]]] = {}

    def forget(self, environment_ids: Sequence[int] | None = None) -> None:
        for environment in list(self._known) if environment_ids is None else environment_ids:
            self._known.pop(environment, None)

    def see(
        self, windows: Frames, instruction: Instruction, texts: Sequence[str], shown: ShownFrames, see: See
    ) -> dict[str, Tensor]:
        """Tokens `[B, F, S, D]` of each camera.

        Args:
            windows: every field that `see` reads, `[B, F, *shape]`.
            instruction, texts: of each row; the texts tell instructions apart.
            see: `ActionNetwork.see`.
        """
        rows: list[int] = []
        places: list[int] = []
        kept: list[dict[int, dict[str, Tensor]]] = []
        for row, (environment, numbers_F) in enumerate(zip(shown.environments, shown.numbers_BF, strict=True)):
            text, known = self._known.get(environment, ("", {}))
            known = {n: known[n] for n in numbers_F.tolist() if n in known} if text == texts[row] else {}
            self._known[environment] = (texts[row], known)
            kept.append(known)
            new = {number: place for place, number in enumerate(numbers_F.tolist()) if number not in known}
            rows += [row] * len(new)
            places += new.values()
        if rows:
            index = torch.tensor(rows, device=instruction.summary_BD.device)
            unseen = {name: values[rows, places][:, None] for name, values in windows.items()}
            seen = see(unseen, instruction[index])
            for found, (row, place) in enumerate(zip(rows, places, strict=True)):
                number = int(shown.numbers_BF[row, place])
                kept[row][number] = {name: tokens[found, 0] for name, tokens in seen.items()}
        cameras = next(iter(kept[0].values()))
        return {
            name: torch.stack(
                [
                    torch.stack([known[number][name] for number in numbers_F.tolist()])
                    for known, numbers_F in zip(kept, shown.numbers_BF, strict=True)
                ]
            )
            for name in cameras
        }
