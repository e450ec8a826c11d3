"""Collecting and training in turns: rounds learn from all before them, and a killed call ends like one that was not."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from qseq import EpisodeStore
from qseq.cli.main import main
from qseq.policies import locate_policy
from tests.evaluation.test_collect import same

POLE = ["--env", "CartPole-v1", "--env-kwargs", '{"max_episode_steps": 9}', "--episodes", "4", "--steps", "12"]
TINY = [
    "objective.value_high=10.0",
    "objective.bootstrap_steps=[1]",
    "network.dim=8",
    "network.heads=1",
    "network.dim_head=8",
    "network.decoder_heads=1",
    "network.decoder_dim_head=8",
    "training.batch_size=8",
    "training.trackers=[]",
    "training.threads=1",
    "training.checkpoint_every=4",
]


def improve(out: Path, *arguments: str) -> int:
    return main(["improve", *POLE, "--out", str(out), *arguments, *TINY])


def weights(run: Path) -> dict[str, np.ndarray]:
    return {name: value.numpy() for name, value in load_file(locate_policy(run) / "model.safetensors").items()}


def test_rounds_learn_from_all_before_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert improve(tmp_path / "out", "--rounds", "2") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["round 0", "round 1"]
    store = EpisodeStore.open(tmp_path / "out" / "collected")
    assert [meta["source"] for meta in store.metadata] == ["round 0"] * 4 + ["round 1"] * 4
    starts = np.asarray(store.columns["state"])[store.first_frames]
    assert len(np.unique(starts, axis=0)) == 8
    # Again does nothing; more rounds go on; anything else is refused and changes nothing.
    first = weights(tmp_path / "out" / "round_000")
    assert improve(tmp_path / "out", "--rounds", "2") == 0
    (tmp_path / "out" / "round_002" / "checkpoints").mkdir(parents=True)  # as a kill may leave it
    assert improve(tmp_path / "out", "--rounds", "3") == 0
    assert EpisodeStore.open(tmp_path / "out" / "collected").num_episodes == 12
    assert improve(tmp_path / "out", "--rounds", "3", "--seed", "1") == 2
    assert "seed: found 1, expected 0" in capsys.readouterr().err
    assert improve(tmp_path / "out", "training.learning_rate=0.1") == 2
    assert "training.learning_rate: found 0.1, expected 0.001" in capsys.readouterr().err
    assert improve(tmp_path / "out", "--env-kwargs", "{}") == 2
    assert "env_kwargs: found {}" in capsys.readouterr().err
    again = weights(tmp_path / "out" / "round_000")
    assert all(np.array_equal(first[name], again[name]) for name in first)


def test_a_refused_request_can_be_mended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["improve", "--env", "CartPol-v1", "--out", str(out), *TINY]) == 2
    assert improve(out, "--data", str(tmp_path / "nothing")) == 2
    assert improve(out, "--algo", "no-such") == 2
    assert not out.exists()
    assert main(["improve", *POLE, "--out", str(out), *TINY[1:]]) == 2  # returns above 1
    assert "value_high" in capsys.readouterr().err
    assert improve(out, "--rounds", "1") == 0


def test_data_that_are_given_come_first(tmp_path: Path) -> None:
    offline = tmp_path / "offline"
    assert main(["collect", *POLE[:4], "--episodes", "6", "--out", str(offline)]) == 0
    assert improve(tmp_path / "out", "--rounds", "2", "--data", str(offline)) == 0
    store = EpisodeStore.open(tmp_path / "out" / "collected")
    assert [meta["source"] for meta in store.metadata] == ["round 1"] * 4
    assert EpisodeStore.open(offline).num_episodes == 6
    assert improve(offline, "--rounds", "1") == 2  # a folder of something else is left alone


def test_sources_are_weighed_the_last_being_what_is_collected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    offline = tmp_path / "offline"
    assert main(["collect", *POLE[:4], "--episodes", "6", "--out", str(offline)]) == 0
    given = ["--rounds", "2", "--data", str(offline)]
    assert improve(tmp_path / "out", *given, "data.weights=[1]") == 2
    assert "data.weights: found [1.0], expected 2 numbers" in capsys.readouterr().err
    assert improve(tmp_path / "out", *given, "data.weights=[1,3]") == 0
    configs = [yaml.safe_load((tmp_path / f"out/round_00{i}/config.yaml").read_text()) for i in range(2)]
    assert [config["data"]["weights"] for config in configs] == [[1.0], [1.0, 3.0]]


@pytest.mark.parametrize("moment", ["collected/schema.json", "round_000/checkpoints/latest", "round_001/config.yaml"])
def test_a_killed_call_goes_on_to_the_same_numbers(tmp_path: Path, moment: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    command = [sys.executable, "-m", "qseq.cli.main", "improve", *POLE, "--out", str(killed), "--rounds", "2", *TINY]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and not (killed / moment).exists():
        time.sleep(0.002)
    assert (killed / moment).exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert improve(killed, "--rounds", "2") == 0
    assert improve(whole, "--rounds", "2") == 0
    assert same(whole / "collected", killed / "collected")
    for number in ("round_000", "round_001"):
        expected, found = weights(whole / number), weights(killed / number)
        assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_noise_on_the_values(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its scale falls over the steps of all rounds, and an interrupted call goes on to the same numbers."""
    noisy = ["--exploration", "gumbel", "--epsilon-start", "40", "--epsilon-end", "0", "--epsilon-steps", "30"]
    assert improve(tmp_path / "out", "--rounds", "3", *noisy) == 0
    assert improve(tmp_path / "still", "--rounds", "3", *noisy[:2], "--epsilon-start", "0", "--epsilon-end", "0") == 0
    loud, still = (EpisodeStore.open(tmp_path / name / "collected") for name in ("out", "still"))
    assert [meta["source"] for meta in loud.metadata] == [f"round {number}" for number in (0, 1, 2) for _ in range(4)]
    # The random round and its training are the same; then the noise tells, until it is spent.
    assert loud.lengths[:4].tolist() == still.lengths[:4].tolist()
    first = slice(int(loud.first_steps[4]), int(loud.first_steps[4]) + 8)
    assert loud.columns["action"][first].tolist() != still.columns["action"][first].tolist()
    killed = tmp_path / "killed"
    assert improve(killed, "--rounds", "1", *noisy) == 0
    assert improve(killed, "--rounds", "3", *noisy) == 0
    assert same(killed / "collected", tmp_path / "out" / "collected")
    assert main(["improve", *POLE, "--out", str(tmp_path / "bc"), "--algo", "bc", "--exploration", "gumbel"]) == 2
    assert "'bc' learns no values" in capsys.readouterr().err
    assert improve(killed, "--rounds", "3", *noisy[2:]) == 2
    assert "exploration: found 'epsilon', expected 'gumbel'" in capsys.readouterr().err
