"""metrics.jsonl, and the watch for losses that are NaN or infinite."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qseq.errors import NonFiniteLossError
from qseq.files import free_space_error, write_atomic


class MetricWindow:
    """The scalars of the steps since the last log line. They stay on their device: reading one would stall a GPU."""

    def __init__(self) -> None:
        self._names: list[tuple[str, ...]] = []
        self._steps: list[int] = []
        self._rows: list[Tensor] = []
        self._looked_at = 0  # rows known to be finite, and on the CPU

    def add(self, step: int, names: Sequence[str], values: Tensor) -> None:
        """Note the scalars of one step: float32 [len(names)]."""
        self._steps.append(step)
        self._names.append(tuple(names))
        self._rows.append(values)

    def require_finite(self, last_checkpoint: Path | None) -> None:
        """Read the scalars and raise for the first step, and the first term of it, that is NaN or infinite.

        Raises:
            NonFiniteLossError: with the step, the term and the last good checkpoint.
        """
        for i in range(self._looked_at, len(self._rows)):
            step, names, row = self._steps[i], self._names[i], self._rows[i].cpu()
            self._rows[i] = row
            if bool(torch.isfinite(row).all()):
                continue
            bad = {name: value for name, value in zip(names, row.tolist(), strict=True) if not math.isfinite(value)}
            # The total is bad because of a term, so name the term if there is one.
            name = next((name for name in bad if name not in ("loss", "grad_norm")), next(iter(bad)))
            raise NonFiniteLossError(step, name, bad[name], last_checkpoint)
        self._looked_at = len(self._rows)

    def take_means(self) -> dict[str, Tensor]:
        """The mean of each scalar over the steps noted, as float64 scalars; then start anew."""
        columns: dict[str, list[Tensor]] = {}
        for names, row in zip(self._names, self._rows, strict=True):
            for name, value in zip(names, row.unbind(), strict=True):
                columns.setdefault(name, []).append(value)
        self._names, self._steps, self._rows, self._looked_at = [], [], [], 0
        return {name: torch.stack(values).double().mean() for name, values in columns.items()}

    def state(self) -> list[Any]:
        """The steps noted, as JSON: a checkpoint in the middle of a window must not lose its first half."""
        rows = zip(self._steps, self._names, self._rows, strict=True)
        return [[step, list(names), row.tolist()] for step, names, row in rows]

    def load_state(self, states: Sequence[list[Any]], rank: int, processes: int) -> None:
        """Put back what `state` gave, on each process that trained; on another number of them, all get the mean."""
        if len(states) == processes:
            states = states[rank : rank + 1]
        for rows in zip(*states, strict=True):
            step, names, _ = rows[0]
            self.add(step, names, torch.tensor([row for _, _, row in rows], dtype=torch.float64).mean(0))


class MetricsFile:
    """One JSON object a line, appended; each holds its "step"."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line.

        Raises:
            RequestError: the disk is full.
        """
        with free_space_error(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop the lines past `step`: the resumed run writes them again. A line cut short by a crash goes too."""
        kept: list[str] = []
        if self.path.exists():
            for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
                if (found := step_of(line)) is not None and found <= step:
                    kept.append(line)
        write_atomic(self.path, "".join(kept))

    def last_step(self) -> int:
        """The greatest step on any line, 0 without lines."""
        if not self.path.exists():
            return 0
        return max((step_of(line) or 0 for line in self.path.read_text(encoding="utf-8").splitlines()), default=0)

    def sync(self) -> None:
        """Make the lines durable."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def step_of(line: str) -> int | None:
    """The step of a line of metrics.jsonl, None if it is not a whole one."""
    if not line.strip():
        return None
    try:
        step = json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
