"""What do cameras cost? Meta-World from 64 x 64 pixels beside the same learner given the simulator's state.

    python benchmarks/cameras.py --seeds 0
    python benchmarks/cameras.py --table

One model of two tasks, which the instruction tells apart, on the corrupted recipe. The camera's policy sees two frames
and the gripper (`proprioception`), nothing else; the state's policy is that of benchmarks/learning.py. Both learn from
the same episodes: a store with pictures and one without, collected with the same seed. Evaluation: the final
checkpoint, 100 unseen starts a task, the same for both. A cell that benchmarks/results/cameras.jsonl already holds is
not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from _cells import ROOT, ResultLines, collect_once, qseq, train_to_end
from learning import ENVIRONMENT, FIRST_COLLECTION_SEED

RESULTS = ResultLines("cameras")
WORK = ROOT / "runs" / "cameras"
EPISODES: Mapping[str, int] = {"push-v3": 700, "drawer-open-v3": 300}
EVALUATION_EPISODES, EVALUATION_SEED, MAX_STEPS = 100, 424_242, 150
IMAGE_SIZE = 64
_COMMON = ("training.precision=bf16", "training.threads=1", "training.trackers=[]", "training.checkpoint_every=1000")
SEES: Mapping[str, tuple[str, ...]] = {
    "state": (*_COMMON, "training.steps=5000"),
    "camera": (*_COMMON, "training.steps=6000", "training.batch_size=128", "data.history=2", "data.random_shift=4"),
}


def env_kwargs(task: str, sees: str) -> dict[str, Any]:
    return {"task": task} if sees == "state" else {"task": task, "image_size": IMAGE_SIZE}


def collect(task: str, sees: str, seed: int) -> Path:
    """The data of one seed, made by `qseq collect` unless they are there already."""
    return collect_once(
        WORK / "data" / f"{task}_{sees}_{seed}", "--recipe", "corrupted", "--env-kwargs",
        json.dumps(env_kwargs(task, sees)), "--episodes", str(EPISODES[task]),
        "--seed", str(FIRST_COLLECTION_SEED + seed),
    )  # fmt: skip


def run(sees: str, seed: int) -> None:
    """Train one model of both tasks, and evaluate it on each."""
    folder = WORK / "runs" / f"{sees}__{seed}"
    stores = [collect(task, sees, seed) for task in EPISODES]
    data = [argument for store in stores for argument in ("--data", str(store))]
    seconds = train_to_end(folder, "--algo", "q-transformer", *data, "--seed", str(seed), *SEES[sees])
    found = []
    for task in EPISODES:
        result = folder / f"{task}.json"
        kwargs = {**env_kwargs(task, sees), "max_episode_steps": MAX_STEPS}
        qseq("evaluate", str(folder), "--env", ENVIRONMENT, "--env-kwargs", json.dumps(kwargs), "--episodes",
             str(EVALUATION_EPISODES), "--seed", str(EVALUATION_SEED), "--json", str(result))  # fmt: skip
        measured = json.loads(result.read_text())
        line = {
            "task": task,
            "sees": sees,
            "seed": seed,
            **{key: measured[key] for key in ("success_rate", "success_ci95", "mean_length", "episodes")},
            "evaluation_seed": EVALUATION_SEED,
            "collection_seed": FIRST_COLLECTION_SEED + seed,
            "collected_episodes": EPISODES[task],
            "train_seconds": seconds,
            "overrides": list(SEES[sees]),
        }
        found.append(line)
        print(f"{task:16} {sees:8} seed {seed} {measured['success_rate']:.2f}")
    RESULTS.add(*found)


def table() -> str:
    """Success over seeds, in percent, and the camera's as a share of the state's."""
    rates: dict[tuple[str, str], list[float]] = {}
    for line in RESULTS.read():
        rates.setdefault((line["task"], line["sees"]), []).append(100 * line["success_rate"])
    rows = ["| task | from state | from the camera | share |", "|---|---|---|---|"]
    for task in EPISODES:
        means = {sees: sum(values) / len(values) for (name, sees), values in rates.items() if name == task}
        if len(means) == len(SEES):
            share = f"{means['camera'] / means['state']:.2f}" if means["state"] else "-"
            rows.append(f"| {task} | {means['state']:.0f} | {means['camera']:.0f} | {share} |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--sees", nargs="+", default=list(SEES), choices=list(SEES))
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        done = {(line["sees"], line["seed"]) for line in RESULTS.read()}
        for seed in arguments.seeds:
            for sees in arguments.sees:
                if (sees, seed) not in done:
                    run(sees, seed)
    print(table())


if __name__ == "__main__":
    main()
