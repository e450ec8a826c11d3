"""Do pictures and instructions matter? BabyAI seen by a camera, from a bot that is mostly sent to the wrong object.

    python benchmarks/instructions.py --tasks GoToLocal PickupLoc --methods q-transformer filtered-bc --seeds 0 1 2
    python benchmarks/instructions.py --table

Every seed has data of its own, shared by all methods. Evaluation: the final checkpoint, 200 unseen rooms, the same for
all; once as they are, once with each episode told the instruction of another, once with the camera blank. A cell that
benchmarks/results/instructions.jsonl already holds is not run again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from learning import ROOT, qseq

RESULTS = ROOT / "benchmarks" / "results" / "instructions.jsonl"
WORK = ROOT / "runs" / "instructions"
ENVIRONMENT = "qseq.environments.babyai:qseq/babyai-v0"
FIRST_COLLECTION_SEED, COLLECTED_EPISODES = 1000, 12_000
EVALUATION_EPISODES, EVALUATION_SEED = 200, 424_242
LESS: Mapping[str, tuple[str, ...]] = {
    "as it is": (),
    "instructions shuffled": ("--shuffle-instructions",),
    "camera blank": ("--blank", "image"),
}
COMMON = ("training.precision=bf16", "training.threads=1", "training.trackers=[]", "training.batch_size=64")
METHODS: Mapping[str, tuple[str, ...]] = {
    "q-transformer": (*COMMON, "training.steps=7000", "objective.discount=0.9"),
    "filtered-bc": (*COMMON, "training.steps=7000"),
}
_writing = Lock()


def collect(task: str, seed: int) -> Path:
    """The data of one seed, made by `qseq collect` unless they are there already."""
    store = WORK / "data" / f"{task}_{seed}"
    done = store.with_suffix(".done")
    if not done.exists():
        qseq("collect", "--recipe", "corrupted", "--env-kwargs", json.dumps({"task": task}), "--out", str(store),
             "--episodes", str(COLLECTED_EPISODES), "--seed", str(FIRST_COLLECTION_SEED + seed))  # fmt: skip
        done.touch()
    return store


def run(task: str, method: str, seed: int) -> None:
    """Train, and evaluate with everything and with less."""
    folder = WORK / "runs" / f"{task}__{method}__{seed}"
    started = time.perf_counter()
    if not (folder / "checkpoints" / "latest").exists():
        store = WORK / "data" / f"{task}_{seed}"
        qseq(
            "train", "--algo", method, "--data", str(store), "--out", str(folder), "--seed", str(seed), *METHODS[method]
        )
    seconds = time.perf_counter() - started
    for name, flags in LESS.items():
        result = folder / f"{name.replace(' ', '-')}.json"
        qseq("evaluate", str(folder), "--env", ENVIRONMENT, "--env-kwargs", json.dumps({"task": task}), "--episodes",
             str(EVALUATION_EPISODES), "--seed", str(EVALUATION_SEED), "--json", str(result), *flags)  # fmt: skip
        measured = json.loads(result.read_text())
        line = {
            "task": task,
            "method": method,
            "seed": seed,
            "shown": name,
            **{key: measured[key] for key in ("success_rate", "success_ci95", "mean_length", "episodes")},
            "evaluation_seed": EVALUATION_SEED,
            "collection_seed": FIRST_COLLECTION_SEED + seed,
            "collected_episodes": COLLECTED_EPISODES,
            "train_seconds": round(seconds, 1),
            "overrides": list(METHODS[method]),
        }
        with _writing, RESULTS.open("a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{task:10} {method:14} seed {seed} {name:22} {measured['success_rate']:.2f}")


def lines() -> list[dict[str, Any]]:
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def table() -> str:
    """Mean success over seeds, in percent."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for line in sorted(lines(), key=lambda line: line["seed"]):
        groups.setdefault((line["task"], line["method"], line["shown"]), []).append(100 * line["success_rate"])
    rows = ["| task | method | shown | success % |", "|---|---|---|---|"]
    for (task, method, shown), rates in sorted(groups.items()):
        each = " ".join(f"{rate:.0f}" for rate in rates)
        rows.append(f"| {task} | {method} | {shown} | {sum(rates) / len(rates):.0f} ({each}) |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["GoToLocal", "PickupLoc"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="cells run side by side, one thread each")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        RESULTS.parent.mkdir(parents=True, exist_ok=True)
        done = {(line["task"], line["method"], line["seed"]) for line in lines()}
        asked = [(t, m, s) for s in arguments.seeds for m in arguments.methods for t in arguments.tasks]
        cells = [cell for cell in asked if cell not in done]
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(lambda data: collect(*data), sorted({(task, seed) for task, _, seed in cells})))
            list(pool.map(lambda cell: run(*cell), cells))
    print(table())


if __name__ == "__main__":
    main()
