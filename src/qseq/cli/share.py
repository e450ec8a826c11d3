"""Write a trained policy into a folder to be passed on, or upload it to the Hugging Face Hub.

What is written: weights and description of the policy, its resolved settings, and a model card (README.md) with the
data, the results of `qseq evaluate` with their intervals, and how to use it. Neither training state nor data.
"""

from __future__ import annotations

import argparse

from qseq.cli._common import add_policy_options, parse_options

HELP = "write a policy with a model card, or upload it"
HUB = "hub:"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, a checkpoint folder or a policy folder")
    parser.add_argument("--to", required=True, metavar="FOLDER|hub:OWNER/NAME", help="a new folder, or a repository")
    parser.add_argument("--license", metavar="ID", help="such as mit or apache-2.0; without, the card states none")
    parser.add_argument("--public", action="store_true", help="make a new repository public (default: private)")
    add_policy_options(parser, "how the policy is loaded, such as weights=int8")


def run(args: argparse.Namespace) -> None:
    from qseq.export.sharing import push_to_hub, write_shared

    options = parse_options(args.policy_options)
    if args.to.startswith(HUB):
        repository = args.to.removeprefix(HUB)
        print(push_to_hub(args.run_folder, repository, license=args.license, private=not args.public, **options))
        return
    for path in write_shared(args.run_folder, args.to, license=args.license, **options):
        print(f"wrote {path} ({path.stat().st_size:,} bytes)")
