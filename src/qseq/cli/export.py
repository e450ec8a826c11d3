"""Write a trained policy as programs that other runtimes run: ONNX, or the format of torch.export.

DIR holds the encoder, which reads what is seen and told, the decoder, which takes one token at a time, and
exported.json with all else that acting needs. qseq.export.OnnxPolicy acts with them, onnxruntime and numpy alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qseq.cli._common import add_policy_options, parse_options, refuse_existing

HELP = "write a policy for other runtimes (ONNX, torch.export)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, a checkpoint folder or a hub id")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR")
    parser.add_argument("--format", choices=("onnx", "torch-export"), default="onnx", help="default: %(default)s")
    parser.add_argument("--int8", action="store_true", help="round the weights of linear layers to eight bits")
    parser.add_argument(
        "--instruction",
        action="extend",
        nargs="+",
        default=[],
        metavar="TEXT",
        help="what the policy can be told later; needed where a text encoder of Hugging Face reads it",
    )
    add_policy_options(parser, "how the policy is loaded, such as beam_width=1; exports decide greedily")


def run(args: argparse.Namespace) -> None:
    refuse_existing(args.out, "--out", advice="choose another folder")
    from qseq.export import export_policy

    options = parse_options(args.policy_options)
    export_policy(
        args.run_folder, args.out, format=args.format, int8=args.int8, instructions=args.instruction, **options
    )
    for path in sorted(args.out.iterdir()):
        print(f"wrote {path} ({path.stat().st_size:,} bytes)")
