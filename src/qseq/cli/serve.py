"""Serve a trained policy to robots: a websocket server that speaks the openpi policy protocol.

A client is sent the policy's metadata, then an answer for each observation. The same port shows a live page (/), says
whether the server is well (/healthz) and what it did (/metrics). Only this machine is served unless --host says
otherwise, which needs an API key: in the environment variable QSEQ_API_KEY or in --api-key-file. While the run trains
on, its newer checkpoints take over. SIGTERM and Ctrl-C answer what is being computed, then close.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from qseq.cli._common import add_policy_options, natural, parse_options, positive
from qseq.errors import RequestError

HELP = "serve a trained policy to robots over websockets"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_folder", metavar="RUN", help="a run folder, a checkpoint folder or a hub id")
    parser.add_argument("--host", default="127.0.0.1", help="interface to listen at (default: %(default)s)")
    parser.add_argument("--port", type=natural, default=8000, help="default: %(default)s; 0 takes a free one")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="instead of QSEQ_API_KEY")
    parser.add_argument("--insecure", action="store_true", help="serve other machines without a key")
    parser.add_argument("--max-batch", type=positive, default=64, help="requests decided together (default: 64)")
    parser.add_argument(
        "--max-wait-ms",
        type=float,
        default=2.0,
        metavar="MS",
        help="how long a request waits for those of other clients (default: 2)",
    )
    parser.add_argument(
        "--rename",
        action="extend",
        nargs="+",
        default=[],
        metavar="THEIRS=OURS",
        help="a client's name of a field and the policy's, such as observation/image=image",
    )
    add_policy_options(parser, "how the policy decides, such as decoding=sampled")
    parser.add_argument("--reload-seconds", type=float, default=2.0, metavar="S", help="0: never (default: 2)")
    parser.add_argument("--threads", type=positive, metavar="N", help="of torch (default: its own choice)")
    parser.add_argument("--max-connections", type=positive, default=128, metavar="N", help="default: 128")
    parser.add_argument(
        "--max-rate", type=float, default=200.0, metavar="R", help="requests a second of one client (default: 200)"
    )
    parser.add_argument(
        "--max-message-bytes", type=natural, default=0, metavar="N", help="default: by what the policy reads"
    )


def run(args: argparse.Namespace) -> None:
    try:
        from qseq.serving import Limits, ServingConfig
        from qseq.serving.running import serve_until_stopped
    except ModuleNotFoundError as error:
        if error.name not in ("websockets", "msgpack", "prometheus_client"):
            raise
        raise RequestError(
            f"qseq serve needs {error.name}, which is not installed; pip install 'qseq[serve]'"
        ) from error
    from qseq.serving.security import read_api_key

    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)
    config = ServingConfig(
        host=args.host,
        port=args.port,
        max_batch=args.max_batch,
        max_wait_ms=args.max_wait_ms,
        rename=dict(pair(text) for text in args.rename),
        api_key=read_api_key(args.api_key_file),
        insecure=args.insecure,
        reload_seconds=args.reload_seconds,
        limits=Limits(
            connections=args.max_connections,
            requests_per_second=args.max_rate,
            message_bytes=args.max_message_bytes,
        ),
    )
    serve_until_stopped(args.run_folder, config, **parse_options(args.policy_options))


def pair(text: str) -> tuple[str, str]:
    """THEIRS=OURS. Raises RequestError where a side is missing."""
    theirs, _, ours = text.rpartition("=")
    if not theirs or not ours:
        raise RequestError(f"--rename: found '{text}', expected THEIRS=OURS, such as observation/image=image")
    return theirs, ours
