"""One training of a small language model, alone or as one of several processes; process 0 prints a line of JSON.

Its throughput is that of the steps after the first few, for all processes together.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from _machine import peak_bytes
from qseq.configuration import load_config
from qseq.language import QRLHFConfig
from qseq.language.algorithm import prepare
from qseq.language.preparation import gather_rows
from qseq.training import Trainer, TrainerState
from qseq.training.weights import local


def main() -> None:
    arguments = read_arguments()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        print_result(arguments, Path(folder))


def read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parallel", default="ddp")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--length", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--recompute", action="store_true")
    return parser.parse_args()


def print_result(arguments: argparse.Namespace, folder: Path) -> None:
    shared = Path(os.environ.get("QSEQ_CELL_FOLDER", folder))  # of all processes
    rank, world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    write_rows(folder / "rows.jsonl", arguments.length)
    sizes = {"hidden_size": arguments.width, "num_hidden_layers": arguments.layers, "num_attention_heads": 4}
    sizes |= {"max_position_embeddings": arguments.length + 8}
    config = load_config(
        QRLHFConfig,
        overrides=[
            f"model.settings={json.dumps(sizes)}",
            "model.average_trunk=true",
            f"training.steps={arguments.steps}",
            f"training.batch_size={arguments.batch}",
            f"training.parallel={arguments.parallel}",
            f"training.recompute_activations={str(arguments.recompute).lower()}",
            "training.trackers=[]",
            "training.threads=1",
            "training.log_every=1000",
            "training.checkpoint_every=1000",
        ],
    )
    rows = gather_rows([str(folder / "rows.jsonl")], config.data)
    before = resident()
    prepared = prepare(config, rows, run=shared / "run", seed=0)
    parameters = sum(p.numel() for p in prepared.model.parameters())
    marks: dict[int, tuple[float, int, float, int]] = {}

    def note(state: TrainerState) -> None:
        if state.step in (arguments.warm, arguments.steps - 1):  # the last step writes a checkpoint
            marks[state.step] = (time.perf_counter(), loopback_bytes(), time.process_time(), peak_bytes())

    prepared.trainer.callbacks = (note,)
    prepared.trainer.train()
    if rank:
        return
    (start, sent, used, _), (end, all_sent, all_used, most) = marks[arguments.warm], marks[arguments.steps - 1]
    steps = arguments.steps - 1 - arguments.warm
    tokens = world * arguments.batch * (arguments.length + 1)
    print(
        json.dumps(
            {
                "processes": world,
                "parallel": arguments.parallel if world > 1 else "none",
                "recompute_activations": arguments.recompute,
                "parameters": parameters,
                "tokens_per_step": tokens,
                "seconds_per_step": (end - start) / steps,
                "tokens_per_second": tokens * steps / (end - start),
                "cpu_seconds_per_step": (all_used - used) / steps,
                "loopback_megabytes_per_step": (all_sent - sent) / steps / 1e6,
                "state_megabytes_per_process": state_bytes(prepared.trainer) / 1e6,
                "peak_megabytes_per_process": (most - before) / 1e6,
            }
        )
    )


def state_bytes(trainer: Trainer) -> int:
    """What this process holds between steps: its part of weights, gradients, moving average and optimiser."""
    weights = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
    average = [] if trainer.average is None else list(trainer.average.tensors().values())
    optimiser = [value for state in trainer.optimiser.state.values() for value in state.values()]
    return sum(local(tensor).nbytes for tensor in (*weights, *weights, *average, *optimiser))


def write_rows(path: Path, length: int) -> None:
    """Texts of one length: every token but the first is the policy's."""
    random = np.random.default_rng(0)
    rows = []
    for _ in range(256):
        completion = "".join(random.choice(list("abcdefghijklmnop"), length - 1))
        rows.append(
            {"prompt": "a", "completion": completion, "rewards": [float(letter == "b") for letter in completion]}
        )
    path.write_text("\n".join(map(json.dumps, rows)))


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def loopback_bytes() -> int:
    """Bytes that this machine's processes have sent to each other over the loopback interface, others' among them."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return int(next(line for line in lines if line.strip().startswith("lo:")).split(":")[1].split()[8])


if __name__ == "__main__":
    main()
