"""Two processes with a batch each compute what one process computes with both."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from qseq.configuration import to_dict
from qseq.training import latest_checkpoint
from training import toy_problem
from training.toy_problem import ToyBatches, ToyModel, toy_config, toy_trainer


class BatchPairs:
    """Batches 2i and 2i + 1 as one."""

    def batch_at(self, index: int) -> dict[str, Tensor]:
        first, second = (ToyBatches().batch_at(2 * index + rank) for rank in (0, 1))
        return {key: torch.cat([first[key], second[key]]) for key in first}


def test_two_processes_equal_one_with_double_batches(tmp_path: Path) -> None:
    config = toy_config(steps=8, grad_accum_every=2)
    toy_trainer(tmp_path / "one", config, model=ToyModel(dropout=0.0), batches=BatchPairs()).train()

    run = tmp_path / "two"
    request = {"run": str(run), "resume": False, "delay": 0.0, "dropout": 0.0, "config": to_dict(config)}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    process = subprocess.Popen(
        [*launch, toy_problem.__file__, json.dumps(request)],
        start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "QSEQ_PROGRESS": "0", "CUDA_VISIBLE_DEVICES": ""},
    )
    try:
        assert process.wait(timeout=120) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # the launcher's children too

    one, two = ((path / "metrics.jsonl").read_text().splitlines() for path in (tmp_path / "one", run))
    assert len(one) == len(two) == 8
    for first, second in zip(map(json.loads, one), map(json.loads, two), strict=True):
        for key in ("step", "loss", "error", "anchor", "grad_norm", "learning_rate"):
            torch.testing.assert_close(second[key], first[key], rtol=1e-4, atol=1e-6)
    for name in ("model", "target"):
        alone, pair = (load_file(latest_checkpoint(path) / f"{name}.safetensors") for path in (tmp_path / "one", run))
        for key in alone:
            torch.testing.assert_close(pair[key], alone[key], rtol=1e-3, atol=1e-5)
