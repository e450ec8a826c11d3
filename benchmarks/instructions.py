"""Do pictures and instructions matter? BabyAI seen by a camera, from a bot that is mostly sent to the wrong object.

    python benchmarks/instructions.py --methods q-transformer filtered-bc --seeds 0 1 2
    python benchmarks/instructions.py --recipe sloppy-success          # the successes are full of mistakes, too
    python benchmarks/instructions.py --tasks GoToLocal PickupLoc      # a model each, not one of both
    python benchmarks/instructions.py --table

Tasks joined by '+' are learnt by one model. All seeds and methods share the data of a task. Evaluation: the final
checkpoint, 200 unseen rooms, the same for all, in every way of deciding that is named below; in the first of them also
with each episode told the instruction of another, and with the camera blank. "data" is what the bot achieved, "chance"
what random actions do. Nothing is set per task, recipe or seed. Lines that benchmarks/results/instructions.jsonl holds
already are not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import torch
import yaml

from _cells import ROOT, ResultLines, collect_once, qseq, train_to_end
from qseq.environments.babyai_recipes import RECIPES as BABYAI_RECIPES

RESULTS = ResultLines("instructions")
WORK = ROOT / "runs" / "instructions"
ENVIRONMENT = "qseq.environments.babyai:qseq/babyai-v0"
COLLECTION_SEED = 1000
EVALUATION_EPISODES, EVALUATION_SEED = 200, 424_242
LESS: Mapping[str, tuple[str, ...]] = {
    "instructions shuffled": ("--shuffle-instructions",),
    "camera blank": ("--blank", "image"),
}
# A processor without bfloat16 takes ten times as long with it.
_HAS_BF16 = torch.backends.cpu.get_cpu_capability().startswith("AVX512")
_THIS_MACHINE = (
    f"training.precision={'bf16' if _HAS_BF16 else 'fp32'}",
    "training.threads=1",
    "training.trackers=[]",
    "training.checkpoint_every=1000",
)
# Tiles of 8 pixels. A higher learning rate never finds out what the words mean.
_TWO_FRAMES = (
    *_THIS_MACHINE,
    "training.batch_size=128",
    "training.learning_rate=0.0005",
    "network.vision.patch=8",
    "network.vision.dim=64",
    "network.vision.token_learner_layers=1",
    "data.history=2",
    "network.vision.depth=[2]",
    "training.steps=12000",
)


def settings(file: Path, *parts: str) -> tuple[str, ...]:
    """These parts of a configuration file, as dotted overrides."""

    def dotted(part: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in part.items():
            if isinstance(value, Mapping):
                yield from dotted(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}={json.dumps(value)}"

    config = yaml.safe_load(file.read_text())
    return tuple(override for part in parts for override in dotted(config[part], f"{part}."))


# Where the robot knows how far it has come, one frame is enough; and what an instruction names is found without
# convolutions, and in a fraction of the steps.
_ODOMETRY = ROOT / "examples" / "instructions.yaml"


@dataclass(frozen=True)
class Method:
    """How a method is trained and the ways its policy decides, the first of them its own."""

    overrides: tuple[str, ...]
    decodings: Mapping[str, tuple[str, ...]]
    observes: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the environment beside the task: what is seen of it."""
    episodes: int = 12_000
    """Of each task, collected."""

    def environment(self, task: str) -> str:
        """Arguments of the environment, as JSON."""
        return json.dumps({"task": task, **self.observes})


Cell = tuple[str, str, str, int]
"""Recipe, tasks, method and seed."""

METHODS: Mapping[str, Method] = {
    "q-transformer": Method(
        (
            *_TWO_FRAMES,
            "objective.discount=0.8",
            "objective.conservative_weight=1",
            "data.success_share=0.5",
        ),
        {"temperature 0.03": ("--policy-options", "temperature=0.03"), "greedy": ()},
    ),
    "filtered-bc": Method(_TWO_FRAMES, {"greedy": (), "sampled": ("--policy-options", "decoding=sample")}),
    "q-transformer, odometry": Method(
        (*_THIS_MACHINE, *settings(_ODOMETRY, "training", "network", "objective", "data")),
        {
            "relative, prior 0.1, temperature 0.1, repeats 0.5": (
                "--policy-options",
                "relative=true",
                "prior_weight=0.1",
                "temperature=0.1",
                "repeat_penalty=0.5",
            ),
            "relative, prior 0.1, temperature 0.3": (
                "--policy-options",
                "relative=true",
                "prior_weight=0.1",
                "temperature=0.3",
            ),
            # The head that imitates what turned out better than expected, without the values: as drawn, with as much
            # against repeats as above.
            "prior alone, repeats 5 nats": (
                "--policy-options",
                "prior_weight=1000",
                "temperature=1000",
                "repeat_penalty=5000",
            ),
        },
        observes={"odometry": True},
        episodes=24_000,
    ),
    "filtered-bc, odometry": Method(
        (*_THIS_MACHINE, *settings(_ODOMETRY, "training", "network")),
        {
            "sampled": ("--policy-options", "decoding=sample"),
            "greedy": (),
            "greedy, repeats 0.5": ("--policy-options", "repeat_penalty=0.5"),
        },
        observes={"odometry": True},
        episodes=24_000,
    ),
}


def collect(task: str, recipe: str, method: Method) -> Path:
    """The data of a task, or the episodes of "random" actions, made by `qseq collect` unless they are there already."""
    random = recipe == "random"
    how = ["--env", ENVIRONMENT, "--policy", "random"] if random else ["--recipe", recipe]
    episodes = EVALUATION_EPISODES if random else method.episodes
    store = WORK / "data" / "_".join((task, recipe, *method.observes, str(episodes)))
    return collect_once(store, *how, "--env-kwargs", method.environment(task), "--episodes", str(episodes),
                        "--seed", str(COLLECTION_SEED))  # fmt: skip


def compare_with(task: str, recipe: str, method: Method) -> None:
    """What the bot achieved in the data of a method, and what random actions do."""
    from qseq.episodes import EpisodeStore

    for name, decoding, policy in (("data", "the bot", recipe), ("chance", "random", "random")):
        rate = float((EpisodeStore.open(collect(task, policy, method)).success == 1).mean())
        line = {"recipe": recipe, "task": task, "evaluated_on": task, "method": name, "seed": 0, "decoding": decoding}
        _add({**line, "shown": "as it is", "success_rate": rate})


def missing(cell: Cell) -> dict[tuple[str, str, str], tuple[str, ...]]:
    """What has not been measured of a cell: flags of `qseq evaluate` by task, decoding and what is shown."""
    _, tasks, method, _ = cell
    decodings = METHODS[method].decodings
    own = next(iter(decodings))
    asked = {(decoding, "as it is"): flags for decoding, flags in decodings.items()}
    asked |= {(own, shown): (*decodings[own], *flags) for shown, flags in LESS.items()}
    keys = ("recipe", "task", "method", "seed", "evaluated_on", "decoding", "shown")
    done = {tuple(line[key] for key in keys) for line in RESULTS.read()}
    every = {(task, *how): flags for task, (how, flags) in product(tasks.split("+"), asked.items())}
    return {which: flags for which, flags in every.items() if (*cell, *which) not in done}


def run(cell: Cell) -> None:
    """Train, and evaluate with everything and with less, as far as it is missing."""
    recipe, tasks, method, seed = cell
    folder = WORK / "runs" / f"{tasks}__{recipe}__{method.replace(', ', '-')}__{seed}"
    made = METHODS[method]
    data = [argument for task in tasks.split("+") for argument in ("--data", str(collect(task, recipe, made)))]
    algorithm = method.partition(",")[0]
    seconds = train_to_end(folder, "--algo", algorithm, *data, "--seed", str(seed), *made.overrides)
    found: list[dict[str, Any]] = []
    for (task, decoding, shown), flags in missing(cell).items():
        result = folder / f"{task} {decoding} {shown}.json".replace(" ", "-")
        qseq("evaluate", str(folder), "--env", ENVIRONMENT, "--env-kwargs", made.environment(task), "--episodes",
             str(EVALUATION_EPISODES), "--seed", str(EVALUATION_SEED), "--json", str(result), *flags)  # fmt: skip
        measured = json.loads(result.read_text())
        found.append(
            {
                "recipe": recipe,
                "task": tasks,
                "evaluated_on": task,
                "method": method,
                "seed": seed,
                "decoding": decoding,
                "shown": shown,
                **{key: measured[key] for key in ("success_rate", "success_ci95", "mean_length", "episodes")},
                "success_by_wording": success_by_wording(measured["rows"]),
                "evaluation_seed": EVALUATION_SEED,
                "collection_seed": COLLECTION_SEED,
                "collected_episodes": made.episodes,
                "observes": dict(made.observes),
                "train_seconds": seconds,
                "overrides": list(made.overrides),
            }
        )
    _add(*found)


def success_by_wording(rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Missions that name a place ("on your left") mean places as they were at the start, which must be remembered."""
    groups: dict[str, list[bool]] = {"names a place": [], "names none": []}
    for row in rows:
        placed = any(word in row["instruction"] for word in ("left", "right", "in front", "behind"))
        groups["names a place" if placed else "names none"].append(row["success"])
    return {
        name: {"episodes": len(each), "success_rate": sum(each) / len(each)} for name, each in groups.items() if each
    }


def _add(*lines: dict[str, Any]) -> None:
    RESULTS.add(*lines)
    for line in lines:
        print(
            *(line[key] for key in ("recipe", "evaluated_on", "method", "seed", "decoding", "shown", "success_rate")),
            sep="  ",
            flush=True,
        )


def table() -> str:
    """Mean success over seeds, in percent."""
    groups: dict[tuple[str, ...], list[float]] = {}
    for line in sorted(RESULTS.read(), key=lambda line: line["seed"]):
        task = line["evaluated_on"] + (" (one model)" if "+" in line["task"] else "")
        key = (task, *(line[name] for name in ("recipe", "method", "decoding", "shown")))
        groups.setdefault(key, []).append(100 * line["success_rate"])
    rows = ["| task | recipe | method | decides | shown | success % |", "|---|---|---|---|---|---|"]
    for key, rates in sorted(groups.items()):
        each = " ".join(f"{rate:.0f}" for rate in rates)
        rows.append(f"| {' | '.join(key)} | {sum(rates) / len(rates):.0f} ({each}) |")
    return "\n".join(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="corrupted", choices=BABYAI_RECIPES)
    parser.add_argument("--tasks", nargs="+", default=["GoToLocal+PickupLoc"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="cells run side by side, one thread each")
    parser.add_argument("--table", action="store_true")
    arguments = parser.parse_args()
    if not arguments.table:
        recipe = arguments.recipe
        asked = [(recipe, t, m, s) for s in arguments.seeds for m in arguments.methods for t in arguments.tasks]
        cells = [cell for cell in asked if missing(cell)]
        compared = {(line["recipe"], line["task"]) for line in RESULTS.read() if line["method"] == "chance"}
        for task in sorted({task for tasks in arguments.tasks for task in tasks.split("+")}):
            if (recipe, task) not in compared:
                compare_with(task, recipe, METHODS[arguments.methods[0]])
            for method in arguments.methods:
                collect(task, recipe, METHODS[method])
        with ThreadPoolExecutor(arguments.jobs) as pool:
            list(pool.map(run, cells))
    print(table())


if __name__ == "__main__":
    main()
