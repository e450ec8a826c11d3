"""What the tests of the command line share."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.cli.main import main
from qseq.episodes import Episode, StoreWriter

BOX = {"type": "box", "low": [-1.0, -1.0], "high": [1.0, 1.0]}
# The smallest networks and batches that exercise everything.
TINY = [
    "training.batch_size=8",
    "training.trackers=[]",
    "training.threads=1",
    "training.log_every=2",
    "training.checkpoint_every=2",
    "actions.num_bins=4",
    "network.dim=8",
    "network.heads=1",
    "network.dim_head=8",
    "network.decoder_heads=1",
    "network.decoder_dim_head=8",
    "network.decoder_depth=1",
]


@dataclass(frozen=True)
class Outcome:
    status: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of an error, after the lines of progress; fails if there is a traceback."""
        assert "Traceback" not in self.err
        lines = [line for line in self.err.splitlines() if line.startswith("qseq")]
        assert len(lines) == 1, self.err
        return lines[0]


class Command:
    """Runs `qseq` in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *arguments: Any) -> Outcome:
        self.capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        streams = self.capsys.readouterr()
        return Outcome(status, streams.out, streams.err)


def snapshot(folder: Path) -> dict[str, str]:
    """Every path below with a digest of its content."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in sorted(folder.rglob("*"))
    }


def make_episode(rng: np.random.Generator, *, width: int = 3, actions: int = 2, steps: int = 12) -> Episode:
    success = bool(rng.random() < 0.5)
    rewards = np.zeros(steps, np.float32)
    rewards[-1] = success
    return Episode(
        observations={"state": rng.normal(size=(steps + 1, width)).astype(np.float32)},
        actions=rng.uniform(-1, 1, size=(steps, actions)).astype(np.float32),
        rewards=rewards,
        terminated=success,
        truncated=not success,
        success=success,
        instruction="go",
    )


def make_store(path: Path, *, episodes: int = 6, space: dict[str, Any] | None = None, width: int = 3) -> Path:
    rng = np.random.default_rng(0)
    space = BOX if space is None else space
    with StoreWriter(path, action_space=space) as writer:
        for _ in range(episodes):
            writer.add(make_episode(rng, width=width, actions=len(space["low"])))
    return path


def poke(store: Path, column: str, row: int, dimension: int, value: float, width: int) -> None:
    """Overwrite one stored number, as a faulty writer or a damaged disk would."""
    values = np.memmap(store / "columns" / f"{column}.bin", dtype="<f4", mode="r+").reshape(-1, width)
    values[row, dimension] = value
    values.flush()


def flip_bit(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def truncate(path: Path, keep: float = 0.5) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
