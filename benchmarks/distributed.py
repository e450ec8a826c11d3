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

from _machine import cpu_model

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
    text = json.dumps(result, indent=2)
    print(text)
    if arguments.out is not None:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(text + "\n")


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
    steps = arguments.steps or 100
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        families.write_data(folder)
        found = {case: compare(case, folder, steps) for case in arguments.cases}
        dying = {how: seconds_to_the_end(how, folder) for how in ("raises", "is killed")}
    worst = max(each["largest_relative_difference"] for case in found.values() for each in case.values())
    return {
        "steps": steps,
        "tolerance": TOLERANCE,
        "largest_relative_difference": worst,
        "cases": found,
        "seconds_from_a_process_that_dies_to_the_end_of_all": dying,
    }


def compare(case: str, folder: Path, steps: int) -> dict[str, dict[str, Any]]:
    """Of every run of a case: where it differs most from one process that was never disturbed."""

    def request(name: str, *overrides: str, resume: bool = False) -> dict[str, Any]:
        settings = [f"training.steps={steps}", "training.checkpoint_every=10", *overrides]
        return {"case": case, "data": str(folder), "run": str(folder / name), "set": settings, "resume": resume}

    twice = "training.grad_accum_every=2"
    whole, ddp, fsdp, killed = (f"{case}-{name}" for name in ("one", "ddp", "fsdp", "killed"))
    run(1, [request(whole, twice)])
    run(2, [request(ddp), request(fsdp, "training.parallel=fsdp")])
    at = random.Random(case).randint(steps // 4, 3 * steps // 4)
    kill_at(request(killed, "training.parallel=fsdp"), at)
    shutil.copytree(folder / killed, folder / f"{killed}-on-one")
    run(1, [request(f"{killed}-on-one", twice, resume=True)])
    run(2, [request(killed, resume=True)])
    names = {
        "two processes, DDP": ddp,
        "two processes, FSDP2": fsdp,
        "killed, on with two": killed,
        "killed, on with one": f"{killed}-on-one",
    }
    found = {}
    for description, name in names.items():
        difference, where = families.largest_difference(folder / whole, folder / name)
        found[description] = {"largest_relative_difference": difference, "where": where}
        if "killed" in description:
            found[description]["killed_at_step"] = at
    print(case, found, file=sys.stderr, flush=True)
    return found


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
    """One of two processes dies at its 20th step; the launcher's own start and end are part of the time."""
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
