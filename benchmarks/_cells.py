"""What the learning benchmarks share: a command of qseq, data made once, training to the end, results by the line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from threading import Lock
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
QUIET = {**os.environ, "OMP_NUM_THREADS": "1", "QSEQ_PROGRESS": "0"}
_writing = Lock()


def qseq(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "qseq.cli.main", *arguments], check=True, env=QUIET, cwd=ROOT)


def collect_once(store: Path, *arguments: str) -> Path:
    """`qseq collect` into a store, unless an earlier command came to its end."""
    done = store.with_suffix(".done")
    if not done.exists():
        qseq("collect", *arguments, "--out", str(store))
        done.touch()
    return store


def train_to_end(run: Path, *arguments: str) -> float:
    """`qseq train` into a folder, or the rest of it after an interruption; returns the seconds of all its steps.

    A checkpoint in the folder is no proof of a finished training: one that was stopped leaves its own.
    """
    qseq("train", *arguments, "--out", str(run), *(["--resume"] if run.exists() else []))
    return training_seconds(run)


def training_seconds(run: Path) -> float:
    """Seconds of all steps of a run, those before an interruption too."""
    seconds, done = 0.0, 0
    for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()):
        seconds += (line["step"] - done) / line["steps_per_second"]
        done = line["step"]
    return round(seconds, 1)


class ResultLines:
    """benchmarks/results/NAME.jsonl: what was measured, one line of JSON each."""

    def __init__(self, name: str) -> None:
        self.path = ROOT / "benchmarks" / "results" / f"{name}.jsonl"

    def read(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()] if self.path.exists() else []

    def add(self, *lines: dict[str, Any]) -> None:
        """All in one write, so that what was interrupted leaves none of a cell's lines."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _writing, self.path.open("a") as file:
            file.write("".join(json.dumps(line) + "\n" for line in lines))
