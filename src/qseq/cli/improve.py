"""Collect, train, collect: gather more episodes with what was learnt, and learn from all of them, several times over.

The first round trains on --data, or without any on random episodes; every later round first collects with the policy
of the round before, at random now and then: less and less often over the steps of all rounds. Run the same command
again after an interruption and it goes on where it stopped; with more --rounds it goes on beyond.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qseq.cli._common import IMAGES, add_environment, natural, percent, positive

HELP = "collect and train in turns"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_environment(parser)
    parser.add_argument("--algo", default="q-transformer", help="default: %(default)s")
    parser.add_argument("--data", action="append", default=[], help="begin with these episodes; repeat for several")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="holds collected/ and round_000/, ...")
    parser.add_argument("--rounds", type=positive, default=3, help="in all; default: %(default)s")
    parser.add_argument("--episodes", type=positive, default=100, help="that a round collects; default: %(default)s")
    parser.add_argument(
        "--exploration",
        choices=("epsilon", "gumbel"),
        default="epsilon",
        help="random actions now and then, or noise on the values of actions (default: epsilon)",
    )
    parser.add_argument(
        "--epsilon-start",
        type=float,
        default=0.25,
        help="share of random actions, or scale of noise (default: 0.25)",
    )
    parser.add_argument("--epsilon-end", type=float, default=0.001, help="default: %(default)s")
    parser.add_argument("--epsilon-steps", type=positive, default=1000, help="from start to end (default: 1000)")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="configuration; the rest keeps its default")
    parser.add_argument("--steps", type=positive, help="of each training, the same as training.steps=N")
    parser.add_argument("--seed", type=natural, default=0, help="default: %(default)s")
    parser.add_argument("--num-envs", type=positive, default=1, help="environments stepped together (default: 1)")
    parser.add_argument(
        "--success-return", type=float, metavar="R", help="a return above R is a success, if nothing else says"
    )
    parser.add_argument("--images", metavar="CODING", help=f"how collected pictures are kept: {IMAGES}")


def run(args: argparse.Namespace) -> None:
    from qseq.configuration import load_config
    from qseq.evaluation import LinearSchedule
    from qseq.evaluation.improve import improve
    from qseq.registry import get_algorithm

    steps = [] if args.steps is None else [f"training.steps={args.steps}"]
    config = load_config(get_algorithm(args.algo).config_class, file=args.config, overrides=[*steps, *args.overrides])
    done = improve(
        args.algo,
        config,
        args.env,
        args.env_kwargs,
        rounds=args.rounds,
        episodes=args.episodes,
        out=args.out,
        data=args.data,
        schedule=LinearSchedule(args.epsilon_start, args.epsilon_end, args.epsilon_steps),
        exploration=args.exploration,
        seed=args.seed,
        num_envs=args.num_envs,
        success_return=args.success_return,
        images=args.images,
    )
    for each in done:
        gathered = "trained on the data given"
        if each.collection is not None:
            gathered = (
                f"collected {each.collection.episodes} episodes (success {percent(each.collection.success_rate)}, "
                f"mean return {each.collection.mean_return:.3g}), trained on all so far"
            )
        print(f"round {each.number}: {gathered}: {each.run}", flush=True)
