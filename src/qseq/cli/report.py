"""Make one self-contained HTML page from run folders.

It shows success with 95% intervals, learning curves, what the data holds, Q over the bins of each action dimension
along an episode, and a video of an evaluation. Sections whose ingredients a run lacks say so in one line.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qseq.cli._common import require_file_name

HELP = "make one HTML page from run folders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders")
    parser.add_argument("--out", type=Path, required=True, metavar="report.html")
    parser.add_argument("--title", help="default: made from the task and the methods")


def run(args: argparse.Namespace) -> None:
    require_file_name(args.out, "--out")
    from qseq.reporting import write_report

    write_report(args.runs, args.out, title=args.title)
    print(f"report: {args.out}")
