"""Language models on text tasks: every method on the same data, one line of JSON a way of decoding.

    python benchmarks/text_tasks.py --tasks maze random-walks --methods qrlhf ilql filtered-10 --seeds 0 1 2 --jobs 2
    python benchmarks/text_tasks.py --tasks maze --methods qrlhf --set objective.conservative_weight=0.5 --label half
    python benchmarks/text_tasks.py --table        # all that has been measured so far
    python benchmarks/text_tasks.py --summary      # each method with its best beta

Every seed has data of its own (and a graph, where the task is one of graphs), which all methods share; success in them
is at most 20%. The final checkpoint plays, by greedy decoding from each start once (so that the mean is exact), and by
sampling; methods with values for each beta. A cell that benchmarks/results/text_tasks.jsonl already holds is not run
again, so the command can be stopped and repeated.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import platform
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _cells import ROOT, ResultLines, training_seconds
from _text_methods import COMMON, EVALUATION_SEED, METHODS, TASKS, VALUES, Method, Task

RESULTS = ResultLines("text_tasks")
WORK = ROOT / "runs" / "benchmark" / "text"
FIRST_DATA_SEED = 1000
PIECES_SEED = 5


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training run and its evaluations."""

    task: str
    method: str
    seed: int
    label: str = ""
    """Tells a variant (`--set`, `--steps`, `--games`) from the method itself."""
    overrides: tuple[str, ...] = ()
    steps: int
    games: int
    betas: tuple[str, ...]

    @property
    def key(self) -> tuple[str, str, int, str]:
        return self.task, self.method, self.seed, self.label

    @property
    def folder(self) -> Path:
        return WORK / "runs" / "__".join(str(part) for part in self.key if part != "")


def run(cell: Cell) -> list[dict[str, Any]]:
    """Make the data, train and evaluate; the lines of the results."""
    import torch

    torch.set_num_threads(1)
    task, method = TASKS[cell.task], METHODS[cell.method]
    arguments = task.environment_arguments(cell.seed)
    rows, statistics = make_rows(cell, task, method, arguments)
    train(cell, task, method, arguments, rows)
    from qseq.environments.text import make_text_environment

    common = {
        "task": cell.task,
        "method": cell.method,
        "seed": cell.seed,
        "label": cell.label,
        "optimum": make_text_environment(task.environment, arguments).optimal_return(),  # type: ignore[attr-defined]
        "data": statistics,
        "environment_arguments": arguments,
        "steps": cell.steps,
        "batch_size": task.batch_size,
        "train_seconds": training_seconds(cell.folder),
        "overrides": list(cell.overrides),
        "evaluation_seed": EVALUATION_SEED,
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    return [
        {**common, "decoding": decoding, "beta": beta, **evaluate(cell, task, arguments, decoding, beta)}
        for beta in cell.betas
        # An infinite beta leaves one token: there is nothing to draw.
        for decoding in (("greedy",) if beta == ".inf" else ("greedy", "sampled"))
    ]


def make_rows(cell: Cell, task: Task, method: Method, arguments: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The file that the method trains on, and what the games of all methods hold."""
    import numpy as np

    from qseq.evaluation.text_data import cut_row, generate_rows, read_rows, return_of, summarise_rows, write_rows

    told = "-".join(f"{name}-{value}" for name, value in sorted(arguments.items()))
    played = WORK / "games" / f"{cell.task}__{told}__{cell.seed}__{cell.games}.jsonl"
    if not played.exists():
        write_rows(
            played, generate_rows(task.environment, arguments, games=cell.games, seed=FIRST_DATA_SEED + cell.seed)
        )
    games = list(read_rows(played))
    made = summarise_rows(games)
    statistics = {
        "games": made.games,
        "turns": made.turns,
        "success_rate": made.success_rate,
        "mean_return": made.mean_return,
        "best_return": made.best_return,
    }
    if method.best_share < 1.0:
        count = max(1, round(method.best_share * len(games)))
        games = sorted(games, key=return_of, reverse=True)[:count]
    rng = np.random.default_rng([PIECES_SEED, cell.seed])
    if task.pieces is not None:
        endings = [ending(game, task.pieces[1]) for game in games if game["metadata"]["success"]]
        games = [
            piece
            for game in games
            for piece in cut_row(game, task.pieces, rng, window=task.recent_turns, fold_returns=method.fold_returns)
        ]
        games += endings * task.endings
    path = WORK / "data" / f"{cell.folder.name}.jsonl"
    write_rows(path, games)
    return path, statistics


def ending(game: dict[str, Any], turns: int) -> dict[str, Any]:
    """The last turns of a game."""
    first = max(0, len(game["rewards"]) - turns)
    return {**game, "messages": game["messages"][2 * first :], "rewards": game["rewards"][first:]}


def train(cell: Cell, task: Task, method: Method, arguments: dict[str, Any], rows: Path) -> None:
    """To the end: the rest of a training that was interrupted."""
    from qseq.configuration import load_config
    from qseq.environments.text import make_tokenizer
    from qseq.registry import get_algorithm

    tokenizer = WORK / "tokenizers" / cell.folder.name
    make_tokenizer(task.environment, arguments, level=task.level).save_pretrained(tokenizer)
    algorithm = get_algorithm(method.algorithm)
    settings = {
        "n_embd": task.width,
        "n_layer": task.depth,
        "n_head": task.heads,
        "n_positions": task.tokens,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "activation_function": "gelu_pytorch_tanh",  # GPT-2's own formula, in one kernel
        # GPT-2's 0.02 is for a width of 768.
        "initializer_range": task.width**-0.5,
    }
    base = {
        "model": {"architecture": "gpt2", "settings": settings},
        "data": {"tokenizer": str(tokenizer)},
        "training": {"batch_size": task.batch_size, "steps": cell.steps, "learning_rate": task.learning_rate},
    }
    chosen = [*COMMON, f"objective.observation_weight={task.observation_weight}"]
    if method.learns_values:
        chosen += [*VALUES, *task.overrides]
    chosen += [*method.overrides, *task.own.get(method.algorithm, ())]
    config = load_config(algorithm.config_class, base=base, overrides=[*chosen, *cell.overrides])
    algorithm.train(config, data=[str(rows)], run=cell.folder, seed=cell.seed, resume=cell.folder.exists())


def evaluate(cell: Cell, task: Task, arguments: dict[str, Any], decoding: str, beta: str) -> dict[str, Any]:
    from qseq.environments.text import FiniteStarts, make_text_environment
    from qseq.evaluation import RecentTurns, evaluate_text
    from qseq.registry import load_policy

    policy: Any = load_policy(
        cell.folder,
        sample=decoding == "sampled",
        beta=float(beta.removeprefix(".")),
        max_new_tokens=task.max_new_tokens,
        seed=EVALUATION_SEED,
    )
    environment = make_text_environment(task.environment, arguments)
    assert isinstance(environment, FiniteStarts)
    starts = environment.num_starts
    games = starts if decoding == "greedy" else starts * max(1, round(task.sampled_games / starts))
    player = policy if task.recent_turns is None else RecentTurns(policy, task.recent_turns)
    started = time.perf_counter()
    result = evaluate_text(
        player, task.environment, arguments, episodes=games, seed=EVALUATION_SEED, num_envs=games, every_start=True
    )
    return {
        "mean_return": result.mean_return,
        # Of greedy play the mean is exact for this model; the interval is over starts.
        "return_ci95": list(result.return_ci95),
        "success_rate": result.success_rate,
        "success_ci95": None if result.success_ci95 is None else list(result.success_ci95),
        "mean_length": result.mean_length,
        "episodes": games,
        "evaluation_seconds": round(time.perf_counter() - started, 1),
    }


def add_lines(lines: list[dict[str, Any]]) -> None:
    RESULTS.add(*lines)
    for line in lines:
        name = f"{line['method']} {line['label']}".strip()
        print(
            f"{line['task']:13} {name:20} seed {line['seed']} {line['decoding']:7} beta {line['beta']:4} "
            f"{line['mean_return']:8.3f} of {line['optimum']:.3f}, trained {line['train_seconds']:.0f} s",
            flush=True,
        )


Group = tuple[str, str, str, str]
"""Task, method, decoding, beta."""


def groups() -> dict[Group, list[dict[str, Any]]]:
    """The lines of all seeds, in order."""
    found: dict[Group, list[dict[str, Any]]] = {}
    for line in sorted(RESULTS.read(), key=lambda line: line["seed"]):
        method = f"{line['method']} {line['label']}".strip()
        found.setdefault((line["task"], method, line["decoding"], line["beta"]), []).append(line)
    return found


def mean(lines: list[dict[str, Any]]) -> float:
    return float(sum(line["mean_return"] for line in lines) / len(lines))


def table() -> str:
    """Mean return over seeds with each seed's, and a bootstrap interval over seeds."""
    from qseq.evaluation import bootstrap_interval

    rows = [
        "| task | method | decoding | beta | mean return (seeds) | 95% over seeds | optimum | data |",
        "|---" * 8 + "|",
    ]
    for (task, method, decoding, beta), lines in sorted(groups().items()):
        returns = [line["mean_return"] for line in lines]
        low, high = bootstrap_interval(returns)
        each = " ".join(f"{value:.2f}" for value in returns)
        optimum = sum(line["optimum"] for line in lines) / len(lines)
        data = sum(line["data"]["mean_return"] for line in lines) / len(lines)
        rows.append(
            f"| {task} | {method} | {decoding} | {beta} | {mean(lines):.2f} ({each}) "
            f"| {low:.2f} to {high:.2f} | {optimum:.2f} | {data:.2f} |"
        )
    return "\n".join(rows)


def summary() -> str:
    """Each method's best beta over all its seeds, greedy and sampled: a flattery, but the same for all methods."""
    from qseq.evaluation import bootstrap_interval

    rows = ["| task | method | seeds | greedy | sampled | optimum | data |", "|---" * 7 + "|"]
    best: dict[tuple[str, str], dict[str, tuple[str, list[dict[str, Any]]]]] = {}
    for (task, method, decoding, beta), lines in groups().items():
        if method not in METHODS:  # a variant, with a label
            continue
        known = best.setdefault((task, method), {})
        if decoding not in known or mean(lines) > mean(known[decoding][1]):
            known[decoding] = beta, lines
    order = list(METHODS)
    for (task, method), found in sorted(best.items(), key=lambda item: (item[0][0], order.index(item[0][1]))):
        cells = []
        for beta, lines in (found["greedy"], found["sampled"]):
            low, high = bootstrap_interval([line["mean_return"] for line in lines])
            learnt = f", beta {beta}" if METHODS[method].learns_values else ""
            cells.append(f"{mean(lines):.2f} ({low:.2f} to {high:.2f}){learnt}")
        lines = found["greedy"][1]
        optimum = sum(line["optimum"] for line in lines) / len(lines)
        data = sum(line["data"]["mean_return"] for line in lines) / len(lines)
        rows.append(f"| {task} | {method} | {len(lines)} | {' | '.join(cells)} | {optimum:.2f} | {data:.2f} |")
    return "\n".join(rows)


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    for seed in arguments.seeds:
        for name in arguments.tasks:
            for method in arguments.methods:
                betas = tuple(arguments.betas or TASKS[name].betas) if METHODS[method].learns_values else ("0",)
                yield Cell(
                    task=name,
                    method=method,
                    seed=seed,
                    label=arguments.label,
                    overrides=tuple(arguments.set),
                    steps=arguments.steps or TASKS[name].steps,
                    games=arguments.games or TASKS[name].games,
                    betas=betas,
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--jobs", type=int, default=2, help="cells run side by side, one thread each")
    parser.add_argument("--betas", nargs="+", help="instead of each task's own")
    parser.add_argument("--steps", type=int, help="instead of the task's own; give a --label, too")
    parser.add_argument("--games", type=int, help="instead of the task's own; give a --label, too")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="settings; give a --label, too")
    parser.add_argument("--label", default="", help="name of the variant")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--summary", action="store_true")
    arguments = parser.parse_args()
    if arguments.table:
        print(table())
        return
    if arguments.summary:
        print(summary())
        return
    if (arguments.set or arguments.steps or arguments.games) and not arguments.label:
        parser.error("--set, --steps and --games make a variant: name it with --label")
    os.environ |= {"OMP_NUM_THREADS": "1", "QSEQ_PROGRESS": "0"}
    done = {(line["task"], line["method"], line["seed"], line["label"]) for line in RESULTS.read()}
    wanted = [cell for cell in cells(arguments) if cell.key not in done]
    failed: list[str] = []
    # Fresh processes: torch does not survive a fork with threads running.
    with ProcessPoolExecutor(arguments.jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        running = {pool.submit(run, cell): cell for cell in wanted}
        for future in as_completed(running):
            if error := future.exception():  # the other cells' results are worth keeping
                failed.append(f"{running[future].folder.name}: {error}")
            else:
                add_lines(future.result())
    print(table())
    if failed:
        raise SystemExit("\n".join(["failed:", *failed]))


if __name__ == "__main__":
    main()
