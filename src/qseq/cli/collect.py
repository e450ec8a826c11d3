"""Let a policy act in an environment and keep the episodes.

Episodes are added to the store as they end. Run the same command again after an interruption and it goes on where it
stopped: episode i depends on the seed and i only. Another environment, policy or seed adds to the same store.

Games of a text environment (--env text:maze and so on) become rows of a new JSON-lines file instead, played by the
task's own mix of players, by one scripted player or by a trained language policy.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from qseq.cli._common import IMAGES, add_environment, json_object, natural, percent, positive
from qseq.cli._text import collect_games, is_text
from qseq.errors import RequestError
from qseq.registry import load_policy

if TYPE_CHECKING:
    from qseq.evaluation import Actor, CollectionSummary

HELP = "let a policy act and keep the episodes"
DEFAULT_EPISODES = 10
DEFAULT_TASK = "push-v3"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_environment(parser, required=False)
    parser.add_argument("--policy", help="random (default), scripted:PKG.MOD:NAME, or a run folder")
    parser.add_argument("--policy-kwargs", type=json_object, metavar="JSON", help="arguments of a scripted policy")
    parser.add_argument(
        "--recipe",
        metavar="NAME",
        help="a named mix of faulty experts (Meta-World, BabyAI, PointMaze), not --env and --policy; "
        '--env-kwargs {"task": ...}',
    )
    parser.add_argument("--episodes", type=positive, default=DEFAULT_EPISODES, help="default: %(default)s")
    parser.add_argument("--seed", type=natural, default=0, help="default: %(default)s")
    parser.add_argument("--num-envs", type=positive, default=1, help="environments stepped together (default: 1)")
    parser.add_argument(
        "--success-return", type=float, metavar="R", help="a return above R is a success, if nothing else says"
    )
    parser.add_argument("--images", metavar="CODING", help=f"how a new store keeps pictures: {IMAGES}")
    parser.add_argument("--instruction", help="tell a trained policy this, and record it, instead of the environment's")
    parser.add_argument("--workers", type=natural, default=0, metavar="N", help="collect in N processes with Ray")
    parser.add_argument("--ray-address", metavar="ADDRESS", help="their cluster, such as auto (default: this machine)")
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="STORE",
        help="the store to add to (a .jsonl file for text games)",
    )


def run(args: argparse.Namespace) -> None:
    if args.recipe is None and is_text(args.env):
        collect_games(args)
        return
    for summary in collect_recipe(args) if args.recipe is not None else [collect_one(args)]:
        print(
            f"{summary.out}: {summary.episodes} episodes, {summary.collected} of them new, {summary.steps} steps, "
            f"success {percent(summary.success_rate)}, mean return {summary.mean_return:.3g}"
        )


def collect_one(args: argparse.Namespace) -> CollectionSummary:
    if args.env is None:
        raise RequestError("--env is missing: name an environment, or a --recipe")
    from qseq.evaluation import collect

    return collect(
        choose_actor(args),
        args.env,
        args.env_kwargs,
        episodes=args.episodes,
        seed=args.seed,
        out=args.out,
        num_envs=args.num_envs,
        success_return=args.success_return,
        images=args.images,
        workers=args.workers,
        ray_address=args.ray_address,
    )


def choose_actor(args: argparse.Namespace) -> Actor:
    """Who acts. A trained policy is known by its checkpoint: trained further it is another one."""
    from qseq.evaluation import PolicyActor, make_actor

    policy = args.policy or "random"
    if policy == "random" or policy.startswith("scripted:"):
        if args.instruction is not None:
            raise RequestError("--instruction: only a trained policy can be told anything; leave it out")
        return make_actor(policy, args.policy_kwargs)
    if args.policy_kwargs is not None:
        raise RequestError(f"--policy-kwargs: arguments are for scripted policies, found the policy {policy}")
    from qseq.policies import locate_policy

    checkpoint = locate_policy(policy)
    trained = load_policy(checkpoint)
    return PolicyActor(trained, name=str(checkpoint), instruction=args.instruction, reseed=args.num_envs == 1)


def collect_recipe(args: argparse.Namespace) -> list[CollectionSummary]:
    others = {"--env": args.env, "--policy": args.policy, "--policy-kwargs": args.policy_kwargs}
    others |= {"--success-return": args.success_return, "--instruction": args.instruction}
    others |= {"--workers": args.workers or None, "--ray-address": args.ray_address}
    for flag, value in others.items():
        if value is not None:
            raise RequestError(f"{flag}: a recipe says this itself; leave out {flag} or --recipe")
    from qseq.evaluation import collect_recipe

    kwargs = dict(args.env_kwargs)
    summaries: list[CollectionSummary] = collect_recipe(
        args.recipe,
        kwargs.pop("task", DEFAULT_TASK),
        episodes=args.episodes,
        seed=args.seed,
        out=args.out,
        num_envs=args.num_envs,
        env_kwargs=kwargs,
        images=args.images,
    )
    return summaries
