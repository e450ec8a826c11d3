"""A policy trained from a LeRobot copy of the data is the policy trained from the store: same seed, same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from cli.tools import TINY, Command
from qseq.episodes import EpisodeStore
from qseq.policies import locate_policy

Q_TRANSFORMER = ["objective.value=unbounded", "objective.bootstrap_steps=[1,3]", "data.history=2"]
PENDULUM = ["--env", "Pendulum-v1", "--env-kwargs", '{"max_episode_steps": 15}', "--episodes", "4"]
PUSH = ["--recipe", "corrupted", "--env-kwargs", '{"task": "push-v3"}', "--episodes", "2"]


@pytest.mark.parametrize(
    ("collected", "algorithm", "settings"),
    [
        (PENDULUM, "q-transformer", Q_TRANSFORMER),
        (PENDULUM, "bc", ["data.history=2"]),
        pytest.param(PUSH, "q-transformer", ["actions.bins=quantile"], marks=pytest.mark.simulator),
    ],
)
def test_the_copy_teaches_the_same(
    qseq: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    collected: list[str],
    algorithm: str,
    settings: list[str],
) -> None:
    pytest.importorskip("pyarrow")
    if collected is PUSH:
        pytest.importorskip("metaworld")
    monkeypatch.setenv("QSEQ_CACHE", str(tmp_path / "cache"))
    assert qseq("collect", *collected, "--seed", 1, "--out", tmp_path / "store").status == 0
    assert qseq("convert", tmp_path / "store", f"lerobot:{tmp_path / 'copy'}", "--fps", 20).status == 0
    sources = {"first": str(tmp_path / "store"), "second": f"lerobot:{tmp_path / 'copy'}"}
    for run, source in sources.items():
        command = ["train", "--algo", algorithm, "--data", source, "--out", tmp_path / run, "--seed", 3, "--steps", 6]
        outcome = qseq(*command, *TINY, *settings)
        assert outcome.status == 0, outcome.err
    weights = [load_file(locate_policy(tmp_path / run) / "model.safetensors") for run in sources]
    assert weights[0].keys() == weights[1].keys()
    assert all(weights[0][name].equal(weights[1][name]) for name in weights[0])
    assert losses(tmp_path / "first") == losses(tmp_path / "second")
    descriptions = [json.loads((locate_policy(tmp_path / run) / "policy.json").read_text()) for run in sources]
    assert descriptions[0] == descriptions[1]
    stores = (
        EpisodeStore.open(tmp_path / "store"),
        EpisodeStore.open(next((tmp_path / "cache").glob("*/schema.json")).parent),
    )
    assert all(np.array_equal(stores[0].columns[name], stores[1].columns[name]) for name in stores[0].columns)


def losses(run: Path) -> list[dict[str, float]]:
    """What was logged, without times."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if "loss" in key or key == "grad_norm"} for line in lines]
