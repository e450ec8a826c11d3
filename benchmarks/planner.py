"""Does it plan? Every planner on the same mazes and data, one line of JSON a cell.

    python benchmarks/planner.py --tasks medium large --recipes waypoints --methods select --seeds 0 1 2 --jobs 2
    python benchmarks/planner.py --tasks medium --recipes stitching --methods select monte-carlo
    python benchmarks/planner.py --table        # what has been measured so far

Every seed has data of its own (at most 500 000 steps), collected once into runs/benchmark/planner. A cell that
benchmarks/results/planner.jsonl holds is not run again, so the command can be stopped and repeated. Evaluation: the
final checkpoint in 100 episodes between held-out pairs of cells, at places within them that depend on the seed alone;
path lengths are held against the scripted controller's on the same starts and goals.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from _cells import QUIET, ROOT, ResultLines, collect_once, train_to_end

RESULTS = ResultLines("planner")
WORK = ROOT / "runs" / "benchmark" / "planner"
EPISODES, EVALUATION_SEED, FIRST_COLLECTION_SEED = 100, 424_242, 2000

# Episodes of each recipe: 1000 of 500 steps; short ones of about 45 (medium) or 85 (large) steps.
COLLECTED = {("waypoints", "medium"): 1000, ("waypoints", "large"): 1000, ("stitching", "medium"): 8000,
             ("stitching", "large"): 5000}  # fmt: skip
COMMON = (
    "data.goal_field=desired_goal",
    "training.threads=1",
    "training.precision=bf16",
    "training.trackers=[]",
    "training.checkpoint_every=1000",
)
# A plan is no longer than what an episode shows; the larger maze is looked through from farther away.
SHAPES = {
    ("waypoints", "medium"): (),
    ("waypoints", "large"): ("value.discount=0.995",),
    ("stitching", "medium"): ("trajectory.horizon=6", "trajectory.stride=8", "training.batch_size=128"),
    ("stitching", "large"): ("trajectory.horizon=10", "trajectory.stride=8", "value.discount=0.995"),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """A planner with its settings, and the ways in which it decides; everything not named has qseq's default."""

    overrides: tuple[str, ...] = ()
    decodings: dict[str, dict[str, Any]] = field(default_factory=lambda: {"default": {}})
    steps: int = 10_000


METHODS = {
    "select": Method(
        decodings={
            "default": {},
            "10 ddpm steps": {"steps": 10, "sampler": "ddpm"},
            "places not asked for": {"support_cost": 0.0},
            "first candidate": {"select": False},
        }
    ),
    "monte-carlo": Method(overrides=("value.target=monte-carlo",)),
    "guided": Method(
        overrides=("value.guide=true",),
        decodings={
            "guided and selected": {"guidance_scale": 10.0, "steps": 10},
            "guided": {"guidance_scale": 10.0, "steps": 10, "select": False},
        },
    ),
    "unet": Method(overrides=("denoiser.kind=unet",)),
    "controller": Method(steps=0),
}


@dataclass(frozen=True)
class Cell:
    """One training run and its evaluations."""

    recipe: str
    task: str
    method: str
    seed: int

    @property
    def run(self) -> Path:
        return WORK / "runs" / f"{self.recipe}__{self.task}__{self.method}__{self.seed}"

    @property
    def store(self) -> Path:
        return WORK / "data" / f"{self.recipe}_{self.task}_{self.seed}"


def collect(cell: Cell) -> None:
    """The data of a cell, made by `qseq collect` unless they are there already."""
    collect_once(cell.store, "--recipe", cell.recipe, "--env-kwargs", json.dumps({"task": cell.task}),
                 "--episodes", str(COLLECTED[cell.recipe, cell.task]),
                 "--seed", str(FIRST_COLLECTION_SEED + cell.seed))  # fmt: skip


def run(cell: Cell) -> None:
    """Train and evaluate one cell, and add its line for each decoding."""
    method = METHODS[cell.method]
    overrides = [*COMMON, *SHAPES[cell.recipe, cell.task], *method.overrides, f"training.steps={method.steps}"]
    seconds = 0.0
    if method.steps:
        how = ["--algo", "diffuser", "--data", str(cell.store), "--seed", str(cell.seed)]
        seconds = train_to_end(cell.run, *how, *overrides)
    lines = []
    for decoding, options in method.decodings.items():
        source = str(cell.run) if method.steps else "controller"
        command = [sys.executable, str(ROOT / "benchmarks" / "_planner_cell.py"), source, cell.task]
        command += [json.dumps(options), str(EPISODES), str(EVALUATION_SEED)]
        output = subprocess.run(command, check=True, env=QUIET, capture_output=True, text=True)
        result = json.loads(output.stdout.splitlines()[-1])
        line = {
            **asdict(cell),
            "decoding": decoding,
            "options": options,
            **result,
            "episodes": EPISODES,
            "evaluation_seed": EVALUATION_SEED,
            "collection_seed": FIRST_COLLECTION_SEED + cell.seed,
            "train_seconds": seconds,
            "overrides": overrides if method.steps else [],
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        lines.append(line)
        name = f"{cell.recipe:10} {cell.task:7} {cell.method:12} seed {cell.seed} {decoding:20}"
        print(f"{name} {result['reach_rate']:.2f}", flush=True)
    RESULTS.add(*lines)


def table() -> str:
    """Mean reach rate over seeds, path and time against the controller's, waypoints inside walls."""
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for line in sorted(RESULTS.read(), key=lambda line: line["seed"]):
        name = line["method"] if line["decoding"] == "default" else f"{line['method']}, {line['decoding']}"
        groups.setdefault((line["recipe"], line["task"], name), []).append(line)
    rows = ["| data | maze | method | reached % (95 % interval each seed) | path | time | in walls % | seeds |"]
    rows.append("|---|---|---|---|---|---|---|---|")
    for (recipe, task, name), lines in sorted(groups.items()):
        reached = 100 * mean(lines, "reach_rate")
        each = " ".join(interval(line) for line in lines)
        path, duration = (f"{mean(lines, key):.2f}x" for key in ("median_path_ratio", "median_time_ratio"))
        walls = f"{100 * mean(lines, 'waypoints_in_walls'):.1f}" if "waypoints_in_walls" in lines[0] else ""
        cells = [recipe, task, name, f"{reached:.0f}: {each}", path, duration, walls, str(len(lines))]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def interval(line: dict[str, Any]) -> str:
    low, high = line["reach_ci95"]
    return f"{100 * line['reach_rate']:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def mean(lines: list[dict[str, Any]], key: str) -> float:
    values = [line[key] for line in lines if line[key] is not None]
    return sum(values) / len(values) if values else float("nan")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=["medium", "large"], choices=["medium", "large"])
    parser.add_argument("--recipes", nargs="+", default=["waypoints", "stitching"], choices=["waypoints", "stitching"])
    parser.add_argument("--methods", nargs="+", default=["controller", "select", "monte-carlo"], choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="cells run side by side, one thread each")
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
        if (recipe, task, method, seed) not in done
    ]
    needed = {cell.store: cell for cell in cells if METHODS[cell.method].steps}
    with ThreadPoolExecutor(arguments.jobs) as pool:
        for future in [pool.submit(collect, cell) for cell in needed.values()]:
            future.result()
        for future in [pool.submit(run, cell) for cell in cells]:
            future.result()
    print(table())


if __name__ == "__main__":
    main()
