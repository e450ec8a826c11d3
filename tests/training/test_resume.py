"""A run that was killed and resumed gives the numbers of a run that was not, bit for bit."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qseq.configuration import to_dict
from qseq.training import TrainingConfig, latest_checkpoint
from training import toy_problem
from training.toy_problem import ToyModel, toy_config, toy_trainer

HERE = Path(__file__).parent
VOLATILE = {"steps_per_second"}


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


def start(run: Path, config: TrainingConfig, *, resume: bool, delay: float = 0.0) -> subprocess.Popen[bytes]:
    request = {"run": str(run), "resume": resume, "delay": delay, "dropout": 0.3, "config": to_dict(config)}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "QSEQ_PROGRESS": "0"}
    return subprocess.Popen([sys.executable, toy_problem.__file__, json.dumps(request)], cwd=HERE, env=environment)


def wait_for_step(process: subprocess.Popen[bytes], run: Path, step: int) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (run / "metrics.jsonl").exists() and len((run / "metrics.jsonl").read_text().splitlines()) >= step:
            return
        time.sleep(0.002)
    raise AssertionError(f"step {step} was not reached; exit status {process.poll()}")


def test_killed_three_times(tmp_path: Path) -> None:
    config = toy_config(steps=60, checkpoint_every=4, grad_accum_every=2, precision="bf16", target_every=2)
    toy_trainer(tmp_path / "whole", config).train()

    # Each kill falls anywhere in a third of the run: between steps, in a step, or while a checkpoint is written.
    kills = [random.randrange(low, low + 17) for low in (2, 20, 38)]
    for i, step in enumerate(kills):
        process = start(tmp_path / "killed", config, resume=i > 0, delay=0.005)
        wait_for_step(process, tmp_path / "killed", step)
        time.sleep(random.random() * 0.02)
        process.kill()
        process.wait()
    toy_trainer(tmp_path / "killed", config).train(resume=True)

    assert_same_run(tmp_path / "whole", tmp_path / "killed")
    assert not list((tmp_path / "killed" / "checkpoints").glob(".*")), kills


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
    import signal

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
