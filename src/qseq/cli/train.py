"""Train a policy on logged episodes and write a run folder.

Any configuration value can be given as a dotted override, anywhere on the line:
  qseq train --algo q-transformer --data runs/data --out runs/q training.batch_size=128 training.learning_rate=1e-4

On several processes or machines (docs/distributed.md):
  torchrun --nproc-per-node 8 --no-python qseq train ... training.parallel=fsdp
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from qseq.cli._common import natural, positive, refuse_existing
from qseq.cli._runs import check_resume

HELP = "learn a policy from logged episodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--algo", required=True, help="q-transformer, bc, filtered-bc, ...")
    parser.add_argument(
        "--data",
        required=True,
        action="append",
        help="store:DIR (or a bare path) or minari:ID; repeat the flag for several sources",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="the run folder to write")
    parser.add_argument("--config", type=Path, metavar="FILE.yaml", help="configuration; the rest keeps its default")
    parser.add_argument("--steps", type=positive, help="the same as training.steps=N")
    parser.add_argument("--threads", type=positive, help="the same as training.threads=N")
    parser.add_argument("--seed", type=natural, help="default: 0, or that of the resumed run")
    parser.add_argument("--label", help="a name for this variant: reports tell it apart from other runs of the method")
    parser.add_argument("--resume", action="store_true", help="go on from the newest checkpoint of RUN")


def run(args: argparse.Namespace) -> None:
    if not args.resume:
        refuse_existing(args.out, "--out", advice="add --resume to go on with it, or choose another folder")
    from qseq.configuration import load_config
    from qseq.registry import get_algorithm

    algorithm = get_algorithm(args.algo)
    config = load_config(algorithm.config_class, file=config_file(args), overrides=overrides(args))
    seed, label = settle_identity(args)
    checkpoint = algorithm.train(config, data=args.data, run=args.out, seed=seed, resume=args.resume, label=label)
    if os.environ.get("RANK", "0") == "0":
        print(f"trained {args.algo}: {checkpoint}")


def settle_identity(args: argparse.Namespace) -> tuple[int, str | None]:
    """Seed and label: as asked for, else those of the run to go on with."""
    from qseq.training.identity import read_identity

    stored = read_identity(args.out) if args.resume else {}
    if args.resume:
        check_resume(args.out, algorithm=args.algo, seed=args.seed, data=args.data)
    seed = args.seed if args.seed is not None else int(stored.get("seed", 0))
    return seed, args.label or stored.get("label")


def overrides(args: argparse.Namespace) -> list[str]:
    """The flags that stand for configuration values come first, so that an explicit override wins."""
    flags = {"training.steps": args.steps, "training.threads": args.threads}
    return [f"{key}={value}" for key, value in flags.items() if value is not None] + list(args.overrides)


def config_file(args: argparse.Namespace) -> Path | None:
    """``--config``, else the configuration a resumed run was started with."""
    if args.config is not None:
        return Path(args.config)
    stored = Path(args.out) / "config.yaml"
    return stored if args.resume and stored.is_file() else None
