"""A small policy behind `qseq serve`, and a robot that asks it, for the benchmarks of serving."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import torch
from websockets.sync.client import connect

from qseq.actions import make_tokenizer
from qseq.networks.action_network import NetworkConfig
from qseq.policies import Policy, TokenPolicySpec
from qseq.robot import QTransformerPolicy
from qseq.serving.codec import pack

KEY = "benchmark-0123456789"
WIDTH = 39
SPACE = {"type": "box", "low": [-1.0] * 4, "high": [1.0] * 4, "shape": [4], "dtype": "float32"}


def small_policy() -> QTransformerPolicy:
    """Untrained, of the default size, for states of Meta-World."""
    spec = TokenPolicySpec(
        network=NetworkConfig(),
        fields={"state": (WIDTH,)},
        history=2,
        tokenizer=make_tokenizer(SPACE, num_bins=64),
        action_space=SPACE,
        extra={"value": {"kind": "bounded"}, "initial_value": 0.05, "value_folds": 2},
    )
    torch.manual_seed(0)
    torch.set_num_threads(1)
    return QTransformerPolicy(QTransformerPolicy.build_network(spec, spec.blank_layouts()), spec)


@contextmanager
def served(policy: Policy | Path, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[str]]]:
    """A server as a process of its own, with one thread: (port, process)."""
    with tempfile.TemporaryDirectory() as folder:
        if isinstance(policy, Policy):
            policy.save_pretrained(Path(folder))
        source = folder if isinstance(policy, Policy) else str(policy)
        command = [sys.executable, "-m", "qseq.cli.main", "serve", source, "--port", "0", "--threads", "1", *arguments]
        environment = {**os.environ, "QSEQ_API_KEY": KEY, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            yield int(line.split(",")[0].rpartition(":")[2]), process
        finally:
            process.terminate()
            process.wait()


def processor_seconds(process: subprocess.Popen[str]) -> float:
    """That a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return round((int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK"), 1)


class Robot:
    """A client of the openpi protocol, in as few lines as it takes."""

    def __init__(self, port: int) -> None:
        headers = {"Authorization": f"Api-Key {KEY}"}
        opened = connect(f"ws://127.0.0.1:{port}", compression=None, additional_headers=headers, proxy=None)
        self.socket = opened.__enter__()  # until the benchmark ends
        self.metadata = unpack(self.socket.recv())

    def infer(self, observation: dict[str, Any]) -> dict[str, Any]:
        self.socket.send(pack(observation))
        found: dict[str, Any] = unpack(self.socket.recv())
        return found


def unpack(data: bytes | str) -> Any:
    """Raises RuntimeError: the server sent an error."""
    if isinstance(data, str):
        raise RuntimeError(data)

    def hook(found: dict[Any, Any]) -> Any:
        if b"__ndarray__" not in found:
            return found
        return np.ndarray(buffer=found[b"data"], dtype=np.dtype(found[b"dtype"]), shape=found[b"shape"])

    return msgpack.unpackb(data, object_hook=hook)
