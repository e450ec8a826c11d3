"""Does it learn, and what imitation cannot? Every method on the same data, one line of JSON a cell.

    python benchmarks/learning.py --recipes half-finished corrupted --tasks push-v3 --methods q-transformer bc \
        --seeds 0 1 2 --jobs 2
    python benchmarks/learning.py --table        # the table of what has been measured so far

Every seed has data of its own, collected once into runs/benchmark/data: what varies from seed to seed is the data, the
training and both together; all methods of a seed share its data. A cell that benchmarks/results/learning.jsonl already
holds is not run again, so the command can be stopped and repeated. Evaluation: the final checkpoint, 100 unseen starts,
the same for all.
Methods named d3rlpy-* need `--peer-python`, the Python of an environment with d3rlpy (its pins conflict with ours).
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from _cells import QUIET, ROOT, ResultLines, collect_once, train_to_end
from _methods import EVALUATION_EPISODES, EVALUATION_SEED, METHODS, Method

RESULTS = ResultLines("learning")
WORK = ROOT / "runs" / "benchmark"
ENVIRONMENT = "qseq.environments.metaworld:qseq/metaworld-v3"
FIRST_COLLECTION_SEED, COLLECTED_EPISODES = 1000, 360


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluation: `task` may join several tasks by '+', one model trained on all."""

    recipe: str
    task: str
    method: str
    seed: int

    @property
    def tasks(self) -> list[str]:
        return self.task.split("+")

    @property
    def folder(self) -> Path:
        return WORK / "runs" / f"{self.recipe}__{self.task}__{self.method}__{self.seed}"


def store_of(recipe: str, task: str, seed: int) -> Path:
    return WORK / "data" / f"{task}_{recipe}_{seed}"


def collect(recipe: str, task: str, seed: int) -> None:
    """The data of a recipe for one task, made by `qseq collect` unless they are there already."""
    collect_once(store_of(recipe, task, seed), "--recipe", recipe, "--env-kwargs", json.dumps({"task": task}),
                 "--episodes", str(COLLECTED_EPISODES), "--seed", str(FIRST_COLLECTION_SEED + seed))  # fmt: skip


def run(cell: Cell, peer_python: str | None) -> None:
    """Train and evaluate one cell, and add its line for each decoding."""
    method = METHODS[cell.method]
    stores = [store_of(cell.recipe, task, cell.seed) for task in cell.tasks]
    if method.peer:
        if peer_python is None:
            raise SystemExit(f"{cell.method} needs --peer-python")
        started = time.perf_counter()
        train_peer(cell, method, stores[0], peer_python)
        train_seconds = time.perf_counter() - started
    else:
        data = [argument for store in stores for argument in ("--data", str(store))]
        # A model of several tasks sees each as often as a model of one does.
        overrides = [*method.overrides, f"training.steps={method.steps * len(stores)}"]
        seed = str(cell.seed)
        train_seconds = train_to_end(cell.folder, "--algo", method.algorithm, *data, "--seed", seed, *overrides)
    asked = [(decoding, task) for decoding in method.decodings for task in cell.tasks]
    RESULTS.add(*(evaluate(cell, method, task, decoding, train_seconds) for decoding, task in asked))


def train_peer(cell: Cell, method: Method, store: Path, peer_python: str) -> None:
    import numpy as np

    from qseq.episodes import EpisodeStore

    data = WORK / "peer" / f"{store.name}.npz"
    if not data.exists():
        data.parent.mkdir(parents=True, exist_ok=True)
        opened = EpisodeStore.open(store)
        episodes = [opened.episode(i) for i in range(opened.num_episodes)]
        ends = [np.arange(e.num_steps) == e.num_steps - 1 for e in episodes]
        np.savez(
            data,
            observations=np.concatenate([e.observations["state"][:-1] for e in episodes]),
            actions=np.concatenate([e.actions for e in episodes]),
            rewards=np.concatenate([e.rewards for e in episodes]),
            terminals=np.concatenate([end * e.terminated for end, e in zip(ends, episodes, strict=True)]),
            timeouts=np.concatenate([end * (not e.terminated) for end, e in zip(ends, episodes, strict=True)]),
        )
    script = ROOT / "benchmarks" / "peers" / "d3rlpy_baselines.py"
    subprocess.run(
        [peer_python, str(script), str(data), str(cell.folder), "--algo", method.algorithm, "--seed", str(cell.seed),
         "--steps", str(method.steps)],
        check=True, env=QUIET,
    )  # fmt: skip


def evaluate(cell: Cell, method: Method, task: str, decoding: str, train_seconds: float) -> dict[str, Any]:
    """A line of the results; evaluated in a process of its own, so that cells run side by side."""
    command = [sys.executable, str(ROOT / "benchmarks" / "_evaluate_cell.py"), str(cell.folder), task, decoding]
    output = subprocess.run([*command, str(int(method.peer))], check=True, env=QUIET, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(output.stdout.splitlines()[-1])
    print(f"{cell.recipe:15} {task:15} {cell.method:22} seed {cell.seed} {decoding:7} {result['success_rate']:.2f}")
    return {
        **asdict(cell),
        "evaluated_on": task,
        "decoding": decoding,
        "success_rate": result["success_rate"],
        "success_ci95": result["success_ci95"],
        "mean_length": result["mean_length"],
        "episodes": EVALUATION_EPISODES,
        "evaluation_seed": EVALUATION_SEED,
        "collection_seed": FIRST_COLLECTION_SEED + cell.seed,
        "steps": method.steps * len(cell.tasks),
        "train_seconds": round(train_seconds, 1),
        "overrides": list(method.overrides),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }


def table() -> str:
    """Mean success over seeds, with how many seeds there are, in percent."""
    groups: dict[tuple[str, str, str], dict[str, list[float]]] = {}
    for line in sorted(RESULTS.read(), key=lambda line: line["seed"]):
        joint = " (one model)" if "+" in line["task"] else ""
        decoding = "" if line["decoding"] == "greedy" else f", {line['decoding']}"
        key = (line["recipe"], line["evaluated_on"] + joint, line["method"] + decoding)
        groups.setdefault(key, {}).setdefault("success", []).append(line["success_rate"])
    rows = ["| data | task | method | success % | seeds |", "|---|---|---|---|---|"]
    for (recipe, task, method), group in sorted(groups.items()):
        rates = group["success"]
        each = " ".join(f"{100 * rate:.0f}" for rate in rates)
        rows.append(f"| {recipe} | {task} | {method} | {100 * sum(rates) / len(rates):.0f} ({each}) | {len(rates)} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=["corrupted", "scarce", "sloppy-success", "half-finished"])
    parser.add_argument("--tasks", nargs="+", default=["push-v3", "drawer-open-v3"])
    parser.add_argument("--methods", nargs="+", default=["q-transformer", "bc", "filtered-bc"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="cells run side by side, one thread each")
    parser.add_argument("--peer-python", help="Python of an environment with d3rlpy")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    done = {(line["recipe"], line["task"], line["method"], line["seed"]) for line in RESULTS.read()}
    cells = [
        Cell(recipe, task, method, seed)
        for seed in arguments.seeds
        for method in arguments.methods
        for recipe in arguments.recipes
        for task in arguments.tasks
    ]
    cells = [cell for cell in cells if (cell.recipe, cell.task, cell.method, cell.seed) not in done]
    needed = sorted({(cell.recipe, task, cell.seed) for cell in cells for task in cell.tasks})
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for future in [pool.submit(collect, *data) for data in needed]:
            future.result()
        for future in [pool.submit(run, cell, arguments.peer_python) for cell in cells]:
            future.result()
    print(table())


if __name__ == "__main__":
    main()
