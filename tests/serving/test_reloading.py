"""A newer checkpoint takes over between two decisions; a damaged one does not."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from qseq.policies import TokenPolicy
from qseq.serving.reloading import CheckpointWatch
from qseq.training.checkpoint import write_checkpoint
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import Robot, running, states, until


def policy_of(seed: int, **options: int) -> TokenPolicy:
    """Another network for each seed."""
    policy = make_policy(history=3, **options)
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter.add_(0.5 * torch.randn_like(parameter))
    return policy


def write(run: Path, step: int, policy: TokenPolicy) -> Path:
    return write_checkpoint(run / "checkpoints", step, policy.save_pretrained, {"step": step}, keep=2)


def test_a_name_that_is_not_written_yet_is_waited_for(tmp_path: Path) -> None:
    write(tmp_path, 10, policy_of(1))
    watch = CheckpointWatch(str(tmp_path))
    write(tmp_path, 20, policy_of(1))
    latest = tmp_path / "checkpoints" / "latest"
    name = latest.read_text()
    latest.write_text("")
    assert not watch.changed()
    latest.write_text(name)
    assert watch.changed()
    assert not watch.changed()


def test_a_newer_checkpoint_takes_over_and_episodes_go_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    old, new = policy_of(1), policy_of(2)
    write(tmp_path, 10, old)
    frames = states(12)
    with running(tmp_path, reload_seconds=0.05) as server, Robot(server.port) as robot:
        assert robot.metadata["step"] == 10
        for state in frames[:5]:
            answer = robot.infer({"state": state})
            assert answer["step"] == 10
            np.testing.assert_array_equal(answer["actions"][0], old.act({"state": state}))
            new.act({"state": state})  # it remembers the same episode
        write(tmp_path, 20, new)
        until(lambda: server.server._engine.step == 20)
        for state in frames[5:8]:
            answer = robot.infer({"state": state})
            assert answer["step"] == 20
            np.testing.assert_array_equal(answer["actions"][0], new.act({"state": state}))

        damaged = write(tmp_path, 30, policy_of(3))
        broken = tmp_path / "beside"
        shutil.copytree(damaged, broken)
        weights = bytearray((broken / "model.safetensors").read_bytes())
        weights[-1] ^= 1
        (broken / "model.safetensors").write_bytes(weights)
        until(lambda: server.server._engine.step == 30)
        shutil.copytree(broken, tmp_path / "checkpoints" / "step_00000040")
        (tmp_path / "checkpoints" / "latest").write_text("step_00000040\n")
        until(lambda: "newer checkpoint refused" in caplog.text)
        assert "damaged" in caplog.text
        write(tmp_path, 50, policy_of(1, chunk=2))
        until(lambda: "horizon is 2, expected 1" in caplog.text)
        assert robot.infer({"state": frames[8]})["step"] == 30
        metrics = server.server.metrics.text().decode()
    assert 'qseq_reloads_total{outcome="taken"} 2.0' in metrics
    assert 'qseq_reloads_total{outcome="refused"} 2.0' in metrics
    assert "qseq_policy_step 30.0" in metrics
