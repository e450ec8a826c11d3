"""Let a trained language model answer prompts.

qseq generate runs/q --prompt "2 + 2 ="
qseq generate runs/q --prompts prompts.jsonl --beta 4 --greedy --json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qseq.cli._common import natural, positive
from qseq.errors import RequestError

HELP = "let a trained language model answer prompts"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run, a checkpoint or a Hub name")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="repeat the flag for several")
    parser.add_argument(
        "--prompts", type=Path, metavar="FILE", help="JSON lines or Parquet with prompt (text) or messages in each row"
    )
    parser.add_argument("--beta", type=float, metavar="B", help="weight of the values; 0 none, inf nothing else")
    parser.add_argument("--greedy", action="store_true", help="take the best token rather than draw one")
    parser.add_argument("--temperature", type=float, default=1.0, help="of drawing (default: %(default)s)")
    parser.add_argument("--beams", type=positive, default=1, help="search by so many beams")
    parser.add_argument("--best-of", type=positive, default=1, metavar="N", help="draw N answers, keep the best by Q")
    parser.add_argument("--max-new-tokens", type=positive, default=64, metavar="N", help="default: %(default)s")
    parser.add_argument("--seed", type=natural, default=0, help="default: 0")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line: prompt and completion")


def run(args: argparse.Namespace) -> None:
    prompts = list(args.prompt)
    if args.prompts is not None:
        prompts += read_prompts(args.prompts)
    if not prompts:
        raise RequestError("--prompt: found none, expected at least one (or --prompts FILE)")
    from qseq.registry import load_policy

    options: dict[str, Any] = {} if args.beta is None else {"beta": args.beta}
    policy: Any = load_policy(
        args.run_folder,
        sample=not args.greedy and args.beams == 1,
        temperature=args.temperature,
        beams=args.beams,
        best_of=args.best_of,
        max_new_tokens=args.max_new_tokens,
        seed=args.seed,
        **options,
    )
    for prompt, answer in zip(prompts, policy.respond(prompts), strict=True):
        print(json.dumps({"prompt": prompt, "completion": answer}) if args.json else answer)


def read_prompts(path: Path) -> list[str | Sequence[Mapping[str, str]]]:
    """The prompts or conversations of a file. Raises DataError for a row with neither."""
    from qseq.errors import DataError
    from qseq.language.rows import read_rows

    found: list[str | Sequence[Mapping[str, str]]] = []
    for number, row in enumerate(read_rows(path)):
        if row.get("messages") is None and row.get("prompt") is None:
            raise DataError(f"{path}, row {number}: column 'prompt' (or 'messages') is missing; found {', '.join(row)}")
        found.append(row["prompt"] if row.get("messages") is None else row["messages"])
    return found
