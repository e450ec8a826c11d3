"""How fast the store opens and gives windows, held against a plain numpy gather of the same rows.

python benchmarks/store.py [--steps 1000000] [--out benchmarks/results/store.json]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from _machine import cpu_model, write_report
from qseq.episodes import Episode, EpisodeStore, EpisodeView, StoreWriter, Windows, WindowSpec

STATE, ACTION, BATCH = 39, 4, 256
SPACE = {"type": "box", "low": -1.0, "high": 1.0, "shape": [ACTION], "dtype": "float32"}

OPEN = """
import json, resource, sys, time
import numpy, qseq.episodes
def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) / 1024
before = resident()
start = time.perf_counter()
store = qseq.episodes.EpisodeStore.open(sys.argv[1])
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "resident_mb": resident() - before, "episodes": store.num_episodes}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--batches", type=int, default=400, help="batches a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Path("runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir="runs", prefix="store-benchmark-"))
    try:
        result = measure(folder / "store", arguments.steps, arguments.batches, arguments.rounds)
    finally:
        shutil.rmtree(folder)
    write_report(result, arguments.out)


def measure(path: Path, steps: int, batches: int, rounds: int) -> dict[str, object]:
    start = time.perf_counter()
    with StoreWriter(path, action_space=SPACE) as writer:
        writer.extend(episodes(steps))
    writing = time.perf_counter() - start
    opened = [json.loads(subprocess.check_output([sys.executable, "-c", OPEN, str(path)])) for _ in range(5)]
    view = EpisodeView(EpisodeStore.open(path))
    start = time.perf_counter()
    view.returns_to_go(0.99)
    returns = time.perf_counter() - start
    spec = WindowSpec(history=1, bootstrap_steps=(1, 10))
    windows = Windows(view, spec, batch_size=BATCH, seed=0, discount=0.99)
    rows = [row_numbers(windows, index) for index in range(batches)]
    columns = {name: np.asarray(column) for name, column in view.stores[0].columns.items()}

    # As in training, a batch lives until the next one is there: what freeing memory costs is part of all three.
    batch: object = None

    def ours() -> None:
        nonlocal batch
        for index in range(batches):
            batch = windows.batch_at(index)

    def floor() -> None:
        nonlocal batch
        for frames, actions in rows:
            batch = (columns["state"][frames], columns["action"][actions], columns["reward"][actions])

    def take_floor() -> None:
        nonlocal batch
        for frames, actions in rows:
            batch = (
                np.take(columns["state"], frames, axis=0),
                np.take(columns["action"], actions, axis=0),
                np.take(columns["reward"], actions, axis=0),
            )

    check_same_bytes(windows, columns, rows)
    rates: dict[str, list[float]] = {"ours": [], "index": [], "take": []}
    for _ in range(rounds):  # in turns, so that a slow moment of the machine hits all
        for name, work in (("ours", ours), ("index", floor), ("take", take_floor)):
            rates[name].append(batches * BATCH / seconds(work))
    middle = {name: statistics.median(values) for name, values in rates.items()}
    return {
        "data": {"steps": view.num_steps, "episodes": view.num_episodes, "state": STATE, "action": ACTION},
        "window": {"history": 1, "bootstrap_steps": [1, 10], "num_action_steps": 10, "batch_size": BATCH},
        "windows_per_second": round(middle["ours"]),
        "floor_windows_per_second": {
            "column[rows]": round(middle["index"]),
            "numpy.take(column, rows)": round(middle["take"]),
        },
        "ratio_to_floor": {
            "column[rows]": round(middle["ours"] / middle["index"], 3),
            "numpy.take(column, rows)": round(middle["ours"] / middle["take"], 3),
        },
        "note": "medians of the rounds; the floors are given the row numbers, the windows work them out",
        "open_seconds": round(statistics.median(o["seconds"] for o in opened), 3),
        "open_resident_mb_over_import": round(max(o["resident_mb"] for o in opened), 1),
        "returns_to_go_seconds": round(returns, 3),
        "write_steps_per_second": round(view.num_steps / writing),
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "system": platform.system()},
        "versions": {name: version(name) for name in ("qseq", "numpy", "torch")}
        | {"python": platform.python_version()},
    }


def episodes(steps: int) -> Iterator[Episode]:
    """Episodes of 10 to 150 steps that hold random numbers."""
    rng = np.random.default_rng(0)
    remaining = steps
    while remaining > 0:
        length = min(int(rng.integers(10, 151)), remaining)
        remaining -= length
        success = bool(rng.random() < 0.3)
        rewards = np.zeros(length, np.float32)
        rewards[-1] = success
        yield Episode(
            observations={"state": rng.standard_normal((length + 1, STATE), np.float32)},
            actions=rng.random((length, ACTION), np.float32) * 2 - 1,
            rewards=rewards,
            terminated=success,
            truncated=not success,
            success=success,
            instruction="push the puck to the goal",
            metadata={"task": "push-v3", "seed": remaining},
        )


def row_numbers(windows: Windows, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows of the state and of the action column that batch `index` holds."""
    batch = windows.batch_at(index)
    episodes, t = batch.episodes.numpy(), batch.steps.numpy()[:, None]
    length = windows.view.lengths[episodes][:, None]
    frames = windows.view.first_frames[episodes][:, None] + np.minimum(t + np.array([0, 1, 10]), length)
    actions = windows.view.first_steps[episodes][:, None] + np.minimum(t + np.arange(10), length - 1)
    return frames, actions


def check_same_bytes(
    windows: Windows, columns: dict[str, np.ndarray], rows: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """The floor must read what the windows hold, or the comparison means nothing."""
    for index in (0, len(rows) - 1):
        batch = windows.batch_at(index)
        frames, actions = rows[index]
        assert np.array_equal(batch.frames["state"].numpy(), columns["state"][frames])
        assert np.array_equal(batch.actions.numpy(), columns["action"][actions])


def seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
