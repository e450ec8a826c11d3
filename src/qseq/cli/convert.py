"""Copy a data set from one format into another.

qseq convert minari:D4RL/door/human-v2 data/door      Minari into an episode store
qseq convert data/door minari:./shared/door-v0        an episode store into Minari
"""

from __future__ import annotations

import argparse

HELP = "copy a data set into another format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SOURCE", help="minari:ID, minari:FOLDER/ID, store:DIR or a bare path")
    parser.add_argument("dest", metavar="DEST", help="as SOURCE; must not exist yet")


def run(args: argparse.Namespace) -> None:
    from qseq.episodes.sources import convert

    written = convert(args.source, args.dest)
    for note in written.notes:
        print(f"note: {note}")
    print(f"converted {written.episodes} episodes, {written.steps} steps: {args.dest}")
