"""A run that was killed and resumed gives the numbers of a run that was not, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qseq.configuration import to_dict
from qseq.training import latest_checkpoint
from training import toy_problem
from training.toy_problem import ToyModel, toy_config, toy_trainer

VOLATILE = {"steps_per_second", "waiting_for_data"}


def records(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in VOLATILE} for line in lines]


def assert_same_run(first: Path, second: Path) -> None:
    assert records(first) == records(second)
    for name in ("model", "target", "optimizer"):
        one, two = (load_file(latest_checkpoint(run) / f"{name}.safetensors") for run in (first, second))
        assert one.keys() == two.keys()
        for key, tensor in one.items():
            assert torch.equal(tensor, two[key]), (name, key)


def wait_for_step(run: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while not (run / "metrics.jsonl").exists() or len((run / "metrics.jsonl").read_text().splitlines()) < step:
        assert time.monotonic() < deadline, f"step {step} was not reached"
        time.sleep(0.002)


def wait_for_end(process_id: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        while True:
            os.kill(process_id, 0)
            time.sleep(0.002)


def test_killed_three_times(tmp_path: Path) -> None:
    config = toy_config(steps=60, checkpoint_every=4, grad_accum_every=2, precision="bf16", target_every=2)
    toy_trainer(tmp_path / "whole", config).train()

    run = tmp_path / "killed"
    request = {"run": str(run), "batches": {"delay": 0.005}, "dropout": 0.3, "config": to_dict(config)}
    # Each kill falls anywhere in a third of the run: between steps, in a step, or while a checkpoint is written.
    kills = [random.randrange(low, low + 17) for low in (2, 20, 38)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "QSEQ_PROGRESS": "0"}
    with subprocess.Popen(
        [sys.executable, toy_problem.__file__], stdin=PIPE, stdout=PIPE, text=True, env=environment
    ) as server:
        assert server.stdin is not None
        assert server.stdout is not None
        for i, step in enumerate(kills):
            print(json.dumps({**request, "resume": i > 0}), file=server.stdin, flush=True)
            process_id = int(server.stdout.readline())
            wait_for_step(run, step)
            time.sleep(random.random() * 0.02)
            os.kill(process_id, signal.SIGKILL)
            wait_for_end(process_id)
            assert latest_checkpoint(run).name < "step_00000060", "it was done before it could be killed"
    toy_trainer(run, config).train(resume=True)

    assert_same_run(tmp_path / "whole", run)
    assert not list((run / "checkpoints").glob(".*")), kills


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"precision": "bf16"},
        {"grad_accum_every": 3},
        {"target_start": 5, "target_every": 2},
        {"schedule": "cosine", "weight_decay": 0.1, "max_grad_norm": 0.0},
        {"log_every": 5},  # the checkpoints fall in the middle of a window of averaged metrics
    ],
    ids=str,
)
def test_resumed_run_equals_whole_run(tmp_path: Path, settings: dict[str, Any]) -> None:
    config = toy_config(**settings)
    toy_trainer(tmp_path / "whole", config).train()

    class StopHereError(Exception):
        pass

    def stop_at_7(state: Any) -> None:
        if state.step == 7:
            raise StopHereError

    with pytest.raises(StopHereError):
        toy_trainer(tmp_path / "stopped", config, callbacks=[stop_at_7]).train()
    assert latest_checkpoint(tmp_path / "stopped").name == "step_00000004"
    torch.manual_seed(99)  # a new process has other random states and another initial model
    toy_trainer(tmp_path / "stopped", config, model=ToyModel(seed=99)).train(resume=True)

    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_more_steps_than_at_first(tmp_path: Path) -> None:
    toy_trainer(tmp_path / "whole", toy_config(steps=12)).train()
    toy_trainer(tmp_path / "extended", toy_config(steps=7)).train()
    toy_trainer(tmp_path / "extended", toy_config(steps=12)).train(resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "extended")


def test_stopped_before_its_first_checkpoint(tmp_path: Path) -> None:
    config = toy_config(checkpoint_every=100)
    toy_trainer(tmp_path / "whole", config).train()

    def fail(state: Any) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        toy_trainer(tmp_path / "stopped", config, callbacks=[fail]).train()
    toy_trainer(tmp_path / "stopped", config).train(resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")


def test_finished_run_resumed_does_nothing(tmp_path: Path) -> None:
    final = toy_trainer(tmp_path / "run", toy_config()).train()
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "checkpoints").rglob("*")}
    assert toy_trainer(tmp_path / "run", toy_config()).train(resume=True) == final
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "run" / "checkpoints").rglob("*")}


def test_ctrl_c_saves_the_step_and_resumes_exactly(tmp_path: Path) -> None:
    config = toy_config(steps=12, checkpoint_every=100)
    toy_trainer(tmp_path / "whole", config).train()

    def press(state: Any) -> None:
        if state.step == 4:
            signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        toy_trainer(tmp_path / "stopped", config, callbacks=[press]).train()
    assert signal.getsignal(signal.SIGINT) is before
    assert latest_checkpoint(tmp_path / "stopped").name == "step_00000005"
    assert not list((tmp_path / "stopped" / "checkpoints").glob(".*"))
    toy_trainer(tmp_path / "stopped", config).train(resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
