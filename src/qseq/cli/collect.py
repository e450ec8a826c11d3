"""Let a policy act in an environment and keep the episodes.

Episodes are added to the store as they end. Run the same command again after an interruption and it goes on where it
stopped: episode i depends on the seed and i only.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qseq.cli._common import add_environment, json_object, natural, positive

HELP = "let a policy act and keep the episodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_environment(parser, required=False)
    parser.add_argument("--policy", default="random", help="random (default), scripted:PKG.MOD:NAME, or a run folder")
    parser.add_argument(
        "--policy-kwargs", type=json_object, default={}, metavar="JSON", help="arguments of a scripted policy"
    )
    parser.add_argument("--recipe", metavar="NAME", help="a named mix of policies and environments, instead of --env")
    parser.add_argument("--episodes", type=positive, help="default: 10, or what the recipe says")
    parser.add_argument("--seed", type=natural, default=0, help="default: 0")
    parser.add_argument("--out", required=True, type=Path, metavar="STORE", help="the store to add the episodes to")


def run(args: argparse.Namespace) -> None:
    raise NotImplementedError
