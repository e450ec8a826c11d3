"""Two processes compute what one process computes with the same batches: replicated (DDP) and sharded (FSDP2)."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qseq.configuration import to_dict
from qseq.training import latest_checkpoint
from training import families, toy_problem
from training.toy_problem import toy_config, toy_trainer

STEPS = {"robot": 20, "imitation": 4, "planner": 4, "language": 4}
STILL = "network.dropout=0.0"
"""Without dropout the losses of two batches and of both as one are the same."""


def launch(script: str, request: Any, *, seconds: float = 900.0) -> tuple[int, str]:
    """Exit status and stderr of a script on two processes."""
    process = families.start(script, request, processes=2, stderr=subprocess.PIPE)
    try:
        _, errors = process.communicate(timeout=seconds)
    finally:
        families.kill(process)
    return process.returncode, errors


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs on two processes, in one launch, and those on one."""
    folder = tmp_path_factory.mktemp("runs")
    families.write_data(folder)

    def request(name: str, case: str, *overrides: str, steps: int, resume: bool = False) -> dict[str, Any]:
        settings = [f"training.steps={steps}", *overrides]
        return {"case": case, "data": str(folder), "run": str(folder / name), "set": settings, "resume": resume}

    twice = "training.grad_accum_every=2"
    for case, steps in STEPS.items():
        families.train(request(f"{case}-one", case, twice, steps=steps))
    families.train(request("whole-batches", "imitation", STILL, "training.batch_size=12", steps=4))
    families.train(request("from-one", "robot", twice, steps=7))
    on_two = [
        request(f"{case}-{parallel}", case, f"training.parallel={parallel}", steps=steps)
        for case, steps in STEPS.items()
        for parallel in ("ddp", "fsdp")
    ]
    on_two.append(request("half-batches", "imitation", STILL, steps=4))
    on_two.append(request("from-one", "robot", "training.parallel=fsdp", steps=20, resume=True))
    on_two.append(request("from-two", "robot", "training.parallel=fsdp", steps=7))
    status, errors = launch(families.__file__, on_two)
    assert status == 0, errors
    families.train(request("from-two", "robot", twice, steps=20, resume=True))
    return folder


@pytest.mark.parametrize("case", STEPS)
@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_two_processes_equal_one(runs: Path, case: str, parallel: str) -> None:
    difference, where = families.largest_difference(runs / f"{case}-one", runs / f"{case}-{parallel}")
    assert difference < 1e-5, where
    one, two = (latest_checkpoint(runs / f"{case}-{name}") for name in ("one", parallel))
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in two.iterdir())
    alone, pair = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert {name: tensor.shape for name, tensor in alone.items()} == {name: t.shape for name, t in pair.items()}
    for name, tensor in alone.items():
        torch.testing.assert_close(pair[name], tensor, rtol=1e-3, atol=1e-5)


def test_a_batch_split_in_two_is_the_same_batch(runs: Path) -> None:
    """Though the halves hold unequal numbers of tokens: a mean of their means would be another one."""
    difference, where = families.largest_difference(runs / "whole-batches", runs / "half-batches")
    assert difference < 1e-5, where


@pytest.mark.parametrize("name", ["from-one", "from-two"])
def test_a_run_goes_on_with_another_number_of_processes(runs: Path, name: str) -> None:
    difference, where = families.largest_difference(runs / "robot-one", runs / name)
    assert difference < 1e-5, where


def test_a_process_that_dies_ends_the_others_and_its_error_is_shown(tmp_path: Path) -> None:
    run = tmp_path / "run"
    request = {"run": str(run), "resume": False, "batches": {"fails_at": 13}, "dropout": 0.3}
    config = toy_config(parallel="fsdp")
    status, errors = launch(toy_problem.__file__, {**request, "config": to_dict(config)})
    assert status != 0
    assert "DataError: episode 3 is damaged" in errors
    assert latest_checkpoint(run).name == "step_00000004"

    accumulated = toy_config(grad_accum_every=2)
    toy_trainer(run, accumulated).train(resume=True)
    toy_trainer(tmp_path / "whole", accumulated).train()
    difference, where = families.largest_difference(tmp_path / "whole", run)
    assert difference < 1e-5, where
