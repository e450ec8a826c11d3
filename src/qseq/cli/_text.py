"""The commands that play text games, `--env text:...`."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from qseq.cli._common import percent, refuse_existing, require_file_name
from qseq.errors import RequestError
from qseq.registry import load_policy

if TYPE_CHECKING:
    from qseq.evaluation import EvaluationResult
    from qseq.evaluation.text_actors import TextActor


def is_text(env: str | None) -> bool:
    """Whether `--env` names a text environment."""
    return env is not None and env.startswith("text:")


def collect_games(args: argparse.Namespace) -> None:
    """`qseq collect` of text games: rows as JSON lines."""
    refuse_flags(args, "success_return", "instruction", "images", "workers", "ray_address")
    require_file_name(args.out, "--out")
    refuse_existing(args.out, "--out", advice="rows are written anew: choose another name")
    from qseq.evaluation import collect_text

    made = collect_text(
        args.env,
        args.env_kwargs,
        episodes=args.episodes,
        seed=args.seed,
        out=args.out,
        players=choose_players(args),
        num_envs=args.num_envs,
    )
    print(
        f"{args.out}: {made.games} games, {made.turns} turns, success {percent(made.success_rate)}, "
        f"mean return {made.mean_return:.4g}"
    )


def choose_players(args: argparse.Namespace) -> TextActor | None:
    """Who plays; None is the task's own mix of players."""
    from qseq.environments.text import make_text_environment
    from qseq.evaluation.text_actors import PolicyTextActor, scripted

    if args.policy is None:
        if args.policy_kwargs is not None:
            raise RequestError("--policy-kwargs: arguments are for a scripted policy; name it with --policy")
        return None
    if args.policy == "random":
        raise RequestError(
            "--policy random: found a text environment, whose actions are any text; expected scripted:PKG.MOD:NAME or "
            "a run, or leave --policy out for the task's own mix of players"
        )
    if args.policy.startswith("scripted:"):
        return scripted(args.policy, args.policy_kwargs)
    single_turn = make_text_environment(args.env, args.env_kwargs).single_turn
    return PolicyTextActor(load_policy(args.policy), single_turn=single_turn)


def evaluate_games(args: argparse.Namespace, options: dict[str, Any]) -> EvaluationResult:
    """`qseq evaluate` in a text environment."""
    refuse_flags(args, "success_return", "instruction", "shuffle_instructions", "blank", "video")
    from qseq.evaluation import evaluate_text

    return evaluate_text(
        load_policy(args.run_folder, **options),
        args.env,
        args.env_kwargs,
        episodes=args.episodes,
        seed=args.seed,
        num_envs=args.num_envs,
    )


def refuse_flags(args: argparse.Namespace, *names: str) -> None:
    """Raise RequestError for a flag that means nothing in a text environment."""
    for name in names:
        if getattr(args, name):
            raise RequestError(f"--{name.replace('_', '-')}: means nothing in a text environment; leave it out")
