"""Training on two processes against one: throughput, memory, communication, and that both compute the same.

python benchmarks/distributed.py --out benchmarks/results/distributed.json              # throughput, an idle machine
python benchmarks/distributed.py --equality --out benchmarks/results/distributed_equality.json

Throughput: a small language model, one thread a process, one process and two with the same batch each, in turns; goal
1.8 times with two. Equality, for every family, DDP and FSDP2: 100 steps on two processes against the same batches on
one; every process killed (SIGKILL) at a random step and the run gone on with on one process and on two; and how soon a
process that dies ends the other.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from _machine import cpu_model, write_report

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from training import families, toy_problem  # noqa: E402  (the tests' own tiny runs)

GOAL = 1.8
TOLERANCE = 1e-5


def main() -> None:
    arguments = read_arguments()
    result: dict[str, Any] = {
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "python": platform.python_version()},
        "load_at_start": os.getloadavg()[0],
        "versions": {name: version(name) for name in ("torch", "accelerate", "transformers", "numpy")},
    }
    result |= equality(arguments) if arguments.equality else throughput(arguments)
    write_report(result, arguments.out)


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="of each measurement of throughput")
    parser.add_argument("--steps", type=int, help="default: 12 for throughput, 100 for equality")
    parser.add_argument("--equality", action="store_true")
    parser.add_argument("--cases", nargs="+", default=list(families.CASES), choices=list(families.CASES))
    return parser.parse_args()


# --- throughput ------------------------------------------------------------------------------------------------------


def throughput(arguments: argparse.Namespace) -> dict[str, Any]:
    cells = {
        "one process": (1, []),
        "two, DDP": (2, []),
        "two, FSDP2": (2, ["--parallel", "fsdp"]),
        "two, FSDP2, activations recomputed": (2, ["--parallel", "fsdp", "--recompute"]),
    }
    measured: dict[str, list[dict[str, Any]]] = {name: [] for name in cells}
    for _ in range(arguments.rounds):
        for name, (processes, flags) in cells.items():
            measured[name].append(cell(processes, [*flags, "--steps", str(arguments.steps or 12)]))
    table = {name: median_of(rounds) for name, rounds in measured.items()}
    alone = table["one process"]["tokens_per_second"]
    ratios = {name: row["tokens_per_second"] / alone for name, row in table.items()}
    return {"goal": GOAL, "rounds": arguments.rounds, "ratio_to_one_process": ratios, "cells": table}


def cell(processes: int, flags: list[str]) -> dict[str, Any]:
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    script = str(Path(__file__).with_name("_distributed_cell.py"))
    with tempfile.TemporaryDirectory() as folder:
        quiet = {"OMP_NUM_THREADS": "1", "QSEQ_PROGRESS": "0", "CUDA_VISIBLE_DEVICES": "", "QSEQ_CELL_FOLDER": folder}
        done = subprocess.run(
            [sys.executable, *(launcher if processes > 1 else []), script, *flags],
            env={**os.environ, **quiet},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def median_of(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Of every number; what is no measurement is the same in all rounds."""
    return {
        key: statistics.median(each[key] for each in rounds) if isinstance(value, float) else value
        for key, value in rounds[0].items()
    }


# --- equality --------------------------------------------------------------------------------------------------------


def equality(arguments: argparse.Namespace) -> dict[str, Any]:
    steps, cases = arguments.steps or 100, arguments.cases
    with tempfile.TemporaryDirectory() as name:
        folder = families.write_data(Path(name))

        def request(case: str, run: str, *overrides: str, resume: bool = False) -> dict[str, Any]:
            settings = [f"training.steps={steps}", "training.checkpoint_every=10", *overrides]
            path = str(folder / f"{case} {run}")
            return {"case": case, "data": str(folder), "run": path, "set": settings, "resume": resume}

        # Starting a process takes longer than training these models: each launch trains them all.
        twice, sharded = "training.grad_accum_every=2", "training.parallel=fsdp"
        run(1, [request(case, "whole", twice) for case in cases])
        run(2, [request(case, *how) for case in cases for how in (("DDP",), ("FSDP2", sharded))])
        killed_at = {case: random.Random(case).randint(steps // 4, 3 * steps // 4) for case in cases}
        for case, step in killed_at.items():
            kill_at(request(case, "killed, on with two", sharded), step)
            shutil.copytree(folder / f"{case} killed, on with two", folder / f"{case} killed, on with one")
        run(1, [request(case, "killed, on with one", twice, resume=True) for case in cases])
        run(2, [request(case, "killed, on with two", resume=True) for case in cases])

        found: dict[str, dict[str, Any]] = {}
        for case in cases:
            found[case] = {"killed at step": killed_at[case]}
            for kind in ("DDP", "FSDP2", "killed, on with one", "killed, on with two"):
                difference, where = families.largest_difference(folder / f"{case} whole", folder / f"{case} {kind}")
                found[case][kind] = {"largest_relative_difference": difference, "where": where}
        dying = {how: seconds_to_the_end(how, folder) for how in ("raises", "is killed")}
    kinds = [kind for case in found.values() for kind in case.values() if isinstance(kind, dict)]
    return {
        "steps": steps,
        "tolerance": TOLERANCE,
        "largest_relative_difference": max(kind["largest_relative_difference"] for kind in kinds),
        "cases": found,
        "from_the_death_of_one_process_to_the_end_of_all": dying,
    }


def run(processes: int, requests: list[dict[str, Any]]) -> None:
    process = families.start(families.__file__, requests, processes=processes, stderr=subprocess.DEVNULL)
    if process.wait():
        raise RuntimeError(f"{requests}: exit status {process.returncode}")


def kill_at(request: dict[str, Any], step: int) -> None:
    """Kill all processes of a run at once when it has logged a step."""
    process = families.start(families.__file__, [request], processes=2, stderr=subprocess.DEVNULL)
    path = Path(request["run"]) / "metrics.jsonl"
    while not path.exists() or len(path.read_text().splitlines()) < step:
        if process.poll() is not None:
            raise RuntimeError(f"{path}: the run ended before it could be killed")
        time.sleep(0.005)
    families.kill(process)


def seconds_to_the_end(how: str, folder: Path) -> dict[str, Any]:
    """How long the other process and the launcher live on after one of two processes dies, at its 20th step."""
    batch = {"raises": "fails_at", "is killed": "kills_at"}[how]
    run_folder = folder / how.replace(" ", "-")
    config = {"steps": 10_000, "log_every": 1, "checkpoint_every": 10, "trackers": [], "threads": 1, "warmup_steps": 3}
    request = {"run": str(run_folder), "resume": False, "batches": {batch: 39, "delay": 0.01}, "dropout": 0.3}
    process = families.start(toy_problem.__file__, {**request, "config": config}, processes=2, stderr=subprocess.PIPE)
    _, errors = process.communicate()
    ended = time.time()
    shown = {"raises": "episode 3 is damaged", "is killed": "SIGKILL"}[how]
    # Nothing is logged after the death: the last line's time is at most a step before it.
    return {
        "seconds": ended - (run_folder / "metrics.jsonl").stat().st_mtime,
        "error_shown": shown in errors,
        "exit_status": process.returncode,
    }


if __name__ == "__main__":
    main()
