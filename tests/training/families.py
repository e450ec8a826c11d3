"""A tiny run of every family, with everything that could tell one process from two: dropout, noise, unequal batches.

As a script, launched by torchrun, it trains the runs asked for, one after the other, on all processes:
    torchrun --nproc-per-node 2 tests/training/families.py '[{"case": ..., "data": ..., "run": ...}, ...]'
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qseq.configuration import load_config
from qseq.episodes import Episode, StoreWriter
from qseq.registry import get_algorithm

BOX = {"type": "box", "low": [-1.0, -1.0], "high": [1.0, 1.0], "shape": [2], "dtype": "float32"}
TRAINING = (
    "training.batch_size=6",
    "training.warmup_steps=5",
    "training.schedule=constant",  # others depend on the number of steps, which resumed runs change
    "training.learning_rate=1e-3",
    "training.log_every=1",
    "training.trackers=[]",
    "training.threads=1",
)
NETWORK = ("network={dim: 16, heads: 2, dim_head: 8, decoder_heads: 2, decoder_dim_head: 8, dropout: 0.1}",)
CHUNKS = ("actions.num_bins=8", "actions.chunk=3", "data.history=2", *NETWORK)
PLANS = (
    "denoiser={dim: 16, depth: 2, heads: 2}",
    "value={dim: 16, plan_dim: 16, guide: true}",
    "diffusion.noise_steps=10",
    "trajectory={horizon: 4, stride: 2}",
    "data={state_field: state, goal_field: goal, goal_radius: 0.3}",
)
LANGUAGE = (
    "model.settings={hidden_size: 16, num_hidden_layers: 2, num_attention_heads: 2, max_position_embeddings: 32}",
)


@dataclass(frozen=True)
class Case:
    """One way to train."""

    family: str
    algorithm: str
    overrides: tuple[str, ...]


CASES = {
    "robot": Case("robot", "q-transformer", (*CHUNKS, "objective={bootstrap_steps: [3], value_folds: 2}")),
    "robot-max": Case(
        "robot",
        "q-transformer",
        (*CHUNKS, "objective={bootstrap_steps: [3], bootstrap: max, consistency_weight: 0.1, double_q: false}"),
    ),
    "imitation": Case("imitation", "bc", CHUNKS),
    "planner": Case("planner", "diffuser", PLANS),
    "language": Case("language", "qrlhf", LANGUAGE),
    "language-expectile": Case("language", "ilql", LANGUAGE),
}


def write_data(folder: Path) -> Path:
    """Episodes and texts of many lengths: hardly two batches hold the same number of tokens."""
    random = np.random.default_rng(0)
    with StoreWriter(folder / "episodes", action_space=BOX) as writer:
        for length in (1, 2, 3, 4, 5, 7, 9, 12):
            actions = random.uniform(-1, 1, (length, 2)).astype(np.float32)
            places = np.concatenate([np.zeros((1, 2)), np.cumsum(0.2 * actions, axis=0)]).astype(np.float32)
            rewards = np.zeros(length, np.float32)
            rewards[-1] = float(length % 2)
            writer.add(
                Episode(
                    observations={"state": places, "goal": np.repeat(places[-1:], length + 1, axis=0)},
                    actions=actions,
                    rewards=rewards,
                    terminated=bool(length % 2),
                    truncated=not length % 2,
                    success=bool(length % 2),
                )
            )
    rows = []
    for count in (1, 1, 2, 3, 4, 6, 9, 12, 15):
        text = "".join(random.choice(list("abcd"), count))
        rows.append({"prompt": "a", "completion": text, "rewards": [float(letter == "b") for letter in text]})
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return folder


def train(request: dict[str, Any]) -> Path:
    """`request`: {"case": NAME, "data": FOLDER of `write_data`, "run": FOLDER, "set": [OVERRIDE], "resume": bool}."""
    case = CASES[request["case"]]
    algorithm = get_algorithm(case.algorithm)
    overrides = [*TRAINING, *case.overrides, *request["set"]]
    config = load_config(algorithm.config_class, overrides=overrides)
    data = Path(request["data"]) / ("rows.jsonl" if case.family == "language" else "episodes")
    run = Path(request["run"])
    return algorithm.train(config, data=[str(data)], run=run, seed=3, resume=request.get("resume", False))


def losses(run: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl, without what depends on the clock."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key not in ("steps_per_second", "waiting_for_data")}
        for line in lines
    ]


def largest_difference(one: Path, other: Path) -> tuple[float, str]:
    """The largest relative difference of any number logged by two runs, and where it is."""
    first, second = losses(one), losses(other)
    assert [line["step"] for line in first] == [line["step"] for line in second]
    worst = (0.0, "nowhere")
    for line, twin in zip(first, second, strict=True):
        assert line.keys() == twin.keys()
        for key, value in line.items():
            difference = abs(value - twin[key]) / max(abs(value), 1e-12)
            worst = max(worst, (difference, f"{key} at step {line['step']}"))
    return worst


def start(script: str, request: Any, *, processes: int, stderr: int | None = None) -> subprocess.Popen[str]:
    """Start a script of this folder with a request as its argument, under torchrun unless it is alone."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    return subprocess.Popen(
        [sys.executable, *(launcher if processes > 1 else []), script, json.dumps(request)],
        stderr=stderr,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "QSEQ_PROGRESS": "0", "CUDA_VISIBLE_DEVICES": ""},
    )


def kill(process: subprocess.Popen[str]) -> None:
    """Kill (SIGKILL) what `start` started: the launcher's processes, which are in sessions of their own, and itself."""
    tasks = Path(f"/proc/{process.pid}/task")
    ids = [int(child) for path in tasks.glob("*/children") for child in path.read_text().split()]
    process.kill()  # first: it would report the others' deaths
    for child in ids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait()


if __name__ == "__main__":
    for asked in json.loads(sys.argv[1]):
        train(asked)
