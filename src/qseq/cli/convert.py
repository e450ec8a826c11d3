"""Copy a data set from one format into another.

qseq convert minari:D4RL/door/human-v2 data/door          Minari into an episode store
qseq convert data/door minari:./shared/door-v0            an episode store into Minari
qseq convert lerobot:lerobot/pusht data/pusht             LeRobot, from the hub or a folder, into a store
qseq convert data/pusht lerobot:./shared/pusht --fps 10   and back, cameras as films (--images png: exact)
qseq convert robomimic:low_dim_v15.hdf5 data/lift         a robomimic file into a store
qseq convert data/lift data/small --images jpeg           a store with its pictures compressed

Copies one episode after the other, whatever the size. An interrupted copy into a store or a LeRobot data set goes on
when the same command is run again.
"""

from __future__ import annotations

import argparse

from qseq.cli._common import IMAGES

HELP = "copy a data set into another format"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="store:DIR or a bare path, minari:ID, minari:FOLDER/ID, lerobot:FOLDER_OR_REPO, robomimic:FILE",
    )
    parser.add_argument("dest", metavar="DEST", help="store:DIR, minari:... or lerobot:FOLDER; must not exist yet")
    parser.add_argument("--fps", type=float, metavar="N", help="frames a second of a LeRobot DEST")
    parser.add_argument(
        "--images", metavar="CODING", help=f"cameras of a store: {IMAGES}; of LeRobot: video (default), png"
    )


def run(args: argparse.Namespace) -> None:
    from qseq.episodes.sources import convert

    written = convert(args.source, args.dest, fps=args.fps, images=args.images)
    for note in written.notes:
        print(f"note: {note}")
    print(f"converted {written.episodes} episodes, {written.steps} steps: {args.dest}")
