"""Let a trained policy act in an environment and measure it.

The result goes to RUN/evaluations/ and, with --json, to a file of your choice. Episode i of an evaluation starts
from a state that depends on the seed and i only, so two policies evaluated with one seed meet the same starts.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qseq.cli._common import (
    add_environment,
    add_policy_options,
    natural,
    parse_options,
    percent,
    positive,
    require_file_name,
)
from qseq.cli._text import evaluate_games, is_text
from qseq.files import write_atomic
from qseq.registry import load_policy

if TYPE_CHECKING:
    from qseq.evaluation import EvaluationResult

HELP = "measure a trained policy in an environment"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, a checkpoint folder or a hub id")
    add_environment(parser)
    parser.add_argument("--episodes", required=True, type=positive)
    parser.add_argument("--seed", type=natural, default=0, help="default: 0")
    parser.add_argument("--num-envs", type=positive, default=8, help="environments stepped together (default: 8)")
    add_policy_options(parser, "how the policy decides, such as decoding=sampled")
    parser.add_argument("--instruction", help="tell the policy this instead of what the environment says")
    parser.add_argument(
        "--shuffle-instructions",
        action="store_true",
        help="tell the policy in each episode the instruction of another: shows how far it listens",
    )
    parser.add_argument(
        "--blank", nargs="+", default=[], metavar="FIELD", help="show the policy these fields as zeros: shows their use"
    )
    parser.add_argument(
        "--success-return",
        type=float,
        metavar="R",
        help="a return above R counts as success, where the environment reports none",
    )
    parser.add_argument("--video", type=Path, metavar="DIR", help="film the first episodes: mp4 files")
    parser.add_argument("--video-episodes", type=positive, default=4, metavar="N", help="how many (default: 4)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result there too")


def run(args: argparse.Namespace) -> None:
    if args.json is not None:
        require_file_name(args.json, "--json")
    options = parse_options(args.policy_options)
    result = evaluate_games(args, options) if is_text(args.env) else evaluate_steps(args, options)
    asked = {"env": args.env, "env_kwargs": args.env_kwargs, "policy_options": options, "seed": args.seed}
    if args.shuffle_instructions or args.blank:
        asked |= {"shuffle_instructions": args.shuffle_instructions, "blank": args.blank}
    record = {**result.to_json(), **asked, "run": args.run_folder, "instruction": args.instruction}
    for path in destinations(args, asked):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(record, indent=2) + "\n")
        print(f"wrote {path}")
    print_result(record)


def evaluate_steps(args: argparse.Namespace, options: dict[str, Any]) -> EvaluationResult:
    """In an environment that is stepped with actions."""
    from qseq.evaluation import evaluate

    return evaluate(
        load_policy(args.run_folder, **options),
        args.env,
        args.env_kwargs,
        episodes=args.episodes,
        seed=args.seed,
        num_envs=args.num_envs,
        success_return=args.success_return,
        instruction=args.instruction,
        shuffle_instructions=args.shuffle_instructions,
        blank=args.blank,
        video=args.video,
        video_episodes=args.video_episodes,
    )


def destinations(args: argparse.Namespace, asked: dict[str, Any]) -> list[Path]:
    """--json, and the run's own folder; the same evaluation asked for again replaces its earlier result there."""
    paths = [] if args.json is None else [args.json]
    if (Path(args.run_folder) / "checkpoints").is_dir():
        key = json.dumps({**asked, "episodes": args.episodes, "instruction": args.instruction}, sort_keys=True)
        name = re.sub(r"\W+", "-", args.env.rpartition(":")[2].rpartition("/")[2]).strip("-")
        digest = hashlib.sha256(key.encode()).hexdigest()[:8]
        paths.append(Path(args.run_folder) / "evaluations" / f"{name}-seed{args.seed}-{digest}.json")
    return paths


def print_result(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{record['run']} in {record['env']}", title_justify="left")
    table.add_column("")
    for column in ("episodes", "success", "95% interval", "mean return"):
        table.add_column(column, justify="right")
    tasks = record.get("per_task") or {}
    for name, part in [*(tasks.items() if len(tasks) > 1 else ()), ("all", record)]:
        interval = part.get("success_ci95")
        bounds = f"{percent(interval[0])} to {percent(interval[1])}" if interval else ""
        success = percent(part.get("success_rate"))
        table.add_row(name, f"{part['episodes']:,}", success, bounds, f"{part['mean_return']:.3f}")
    Console().print(table)
