"""Every wrong request ends with status 2 and one line that says what, where, found, expected; the disk is as it was."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cli.tools import TINY, Command, Outcome, flip_bit, make_store, poke, snapshot, truncate

Train = Callable[..., Outcome]

# (column, row, dimension, value, width): rows 12 an episode for actions, 13 for observations.
BAD_VALUES = [
    ("state", 13 + 5, 2, np.nan, 3, ("episode 1", "'state'", "step 5", "nan")),
    ("state", 2, 0, np.inf, 3, ("episode 0", "'state'", "step 2", "inf")),
    ("action", 12 + 3, 1, np.nan, 2, ("episode 1", "'action'", "step 3", "nan")),
    ("action", 24 + 1, 0, 1.5, 2, ("episode 2", "'action'", "step 1", "1.5", "[-1.0, 1.0]")),
    ("reward", 36, 0, -np.inf, 1, ("episode 3", "'reward'", "step 0", "-inf")),
]


def refused(outcome: Outcome, *words: str) -> None:
    assert outcome.status == 2, outcome
    for word in words:
        assert word in outcome.error


@pytest.mark.parametrize(("column", "row", "dimension", "value", "width", "words"), BAD_VALUES)
@pytest.mark.parametrize("command", ["inspect", "train"])
def test_bad_values_are_named(
    qseq: Command, train: Train, folder: Path, command: str, column: str, row: int, dimension: int, value: float,
    width: int, words: tuple[str, ...],
) -> None:  # fmt: skip
    poke(folder / "data", column, row, dimension, value, width)
    before = snapshot(folder)
    outcome = qseq("inspect", folder / "data") if command == "inspect" else train("--out", folder / "new")
    refused(outcome, str(folder / "data"), *words)
    assert snapshot(folder) == before


# A log cut short is not among them: it is a store with fewer episodes, which is how a crash looks.
DAMAGED_FILES = [(flip_bit, "episodes.jsonl")] + [
    (damage, file)
    for damage in (flip_bit, truncate)
    for file in ("columns/state.bin", "columns/action.bin", "schema.json")
]


@pytest.mark.parametrize(("damage", "file"), DAMAGED_FILES)
def test_a_damaged_store_is_named(
    qseq: Command, train: Train, folder: Path, damage: Callable[[Path], None], file: str
) -> None:
    damage(folder / "data" / file)
    before = snapshot(folder)
    refused(qseq("inspect", folder / "data"), str(folder / "data"))
    refused(train("--out", folder / "new"), str(folder / "data"))
    assert snapshot(folder) == before


def test_sources_of_different_shapes(qseq: Command, train: Train, folder: Path) -> None:
    other = make_store(folder / "other", width=5)
    before = snapshot(folder)
    refused(train("--data", other, "--out", folder / "new"), "'state'", "[5]", "[3]", str(other))
    assert snapshot(folder) == before


def test_an_empty_data_set(qseq: Command, folder: Path) -> None:
    from cli.tools import BOX
    from qseq.episodes import StoreSchema, StoreWriter

    StoreWriter(folder / "empty", StoreSchema({"state": ("float32", (3,))}, BOX)).close()
    before = snapshot(folder)
    outcome = qseq("train", "--algo", "bc", "--data", folder / "empty", "--out", folder / "new")
    refused(outcome, str(folder / "empty"), "0 episodes")
    assert snapshot(folder) == before


@pytest.mark.parametrize("source", ["nothing-here", "lerobot:x", "minari:no/such-v0"])
def test_a_source_that_is_not_there(qseq: Command, folder: Path, source: str) -> None:
    before = snapshot(folder)
    refused(qseq("inspect", source), source.rpartition(":")[2])
    refused(qseq("train", "--algo", "bc", "--data", source, "--out", folder / "new"))
    refused(qseq("convert", source, folder / "new"))
    assert snapshot(folder) == before


def test_an_existing_run_folder(train: Train, folder: Path) -> None:
    before = snapshot(folder)
    refused(train("--out", folder / "run"), str(folder / "run"), "--resume")
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("training.stepz=3", ("training.stepz", "training.steps")),
        ("network.dims=3", ("network.dims", "network.dim")),
        ("training.steps=many", ("training.steps", "many")),
        ("training.steps=-1", ("training.steps", "-1")),
    ],
)
def test_a_wrong_setting(train: Train, folder: Path, override: str, words: tuple[str, ...]) -> None:
    before = snapshot(folder)
    refused(train("--out", folder / "new", override), *words)
    assert snapshot(folder) == before


def test_a_wrong_configuration_file(train: Train, folder: Path) -> None:
    (folder / "bad.yaml").write_text("trainin:\n  steps: 3\n")
    before = snapshot(folder)
    refused(train("--out", folder / "new", "--config", folder / "bad.yaml"), "trainin", "training")
    refused(train("--out", folder / "new", "--config", folder / "none.yaml"), "none.yaml")
    assert snapshot(folder) == before


def test_an_unknown_algorithm(qseq: Command, folder: Path) -> None:
    outcome = qseq("train", "--algo", "bcc", "--data", folder / "data", "--out", folder / "new")
    refused(outcome, "bcc", "q-transformer, bc, filtered-bc")


@pytest.mark.parametrize("other", ["actions", "fields", "bounds"])
def test_resuming_with_data_that_do_not_fit(train: Train, folder: Path, other: str) -> None:
    spaces: dict[str, dict[str, Any]] = {
        "actions": {"space": {"type": "box", "low": [-1.0] * 3, "high": [1.0] * 3}},
        "bounds": {"space": {"type": "box", "low": [-1.0] * 2, "high": [2.0] * 2}},
        "fields": {"width": 5},
    }
    data = make_store(folder / "other", **spaces[other])
    before = snapshot(folder)
    outcome = train("--data", data, "--out", folder / "run", "--resume", "--steps", 8)
    refused(outcome, str(data), "'state'" if other == "fields" else "action space")
    assert snapshot(folder) == before


def test_resuming_with_other_settings(qseq: Command, train: Train, folder: Path) -> None:
    before = snapshot(folder)
    refused(train("--out", folder / "run", "--resume", "--steps", 8, "network.dim=16"), "network.dim", "16", "8")
    refused(train("--out", folder / "run", "--resume", "--steps", 8, "--seed", 3), "--seed", "3", "0")
    outcome = qseq("train", "--algo", "filtered-bc", "--data", folder / "data", "--out", folder / "run", "--resume")
    refused(outcome, "--algo", "filtered-bc", "bc")
    assert snapshot(folder) == before


def test_resuming_nothing(train: Train, folder: Path) -> None:
    before = snapshot(folder)
    refused(train("--out", folder / "new", "--resume"), str(folder / "new"), "without --resume")
    assert snapshot(folder) == before


@pytest.mark.parametrize("damage", [flip_bit, truncate])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.safetensors", "trainer.json"])
def test_resuming_from_a_damaged_checkpoint(
    train: Train, folder: Path, newest: Path, damage: Callable[[Path], None], file: str
) -> None:
    damage(newest / file)
    before = snapshot(folder)
    refused(train("--out", folder / "run", "--resume", "--steps", 8), file, "damaged")
    assert snapshot(folder) == before


@pytest.mark.parametrize("damage", [flip_bit, truncate])
@pytest.mark.parametrize("file", ["model.safetensors", "policy.json"])
def test_evaluating_a_damaged_checkpoint(
    qseq: Command, folder: Path, newest: Path, damage: Callable[[Path], None], file: str
) -> None:
    damage(newest / file)
    before = snapshot(folder)
    outcome = qseq("evaluate", folder / "run", "--env", "Pendulum-v1", "--episodes", 1)
    refused(outcome, str(newest / file))
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ("Pendulum-v1", ("action",)),
        ("MountainCarContinuous-v0", ("state",)),
        ("NoSuchThing-v0", ("NoSuchThing-v0",)),
        ("no_such_module:Thing-v0", ("no_such_module",)),
    ],
)
def test_an_environment_that_does_not_fit(qseq: Command, folder: Path, env: str, words: tuple[str, ...]) -> None:
    before = snapshot(folder)
    outcome = qseq("evaluate", folder / "run", "--env", env, "--episodes", 1, "--json", folder / "result.json")
    refused(outcome, *words)
    assert snapshot(folder) == before


def test_an_unknown_policy_option(qseq: Command, folder: Path) -> None:
    arguments = ["--env", "Pendulum-v1", "--episodes", 1, "--policy-options", "temprature=2"]
    refused(qseq("evaluate", folder / "run", *arguments), "temprature")
    arguments[-1] = "decoding=loud"
    refused(qseq("evaluate", folder / "run", *arguments), "loud", "greedy")


@pytest.mark.parametrize("command", ["train", "convert", "report", "collect"])
def test_a_full_disk(qseq: Command, train: Train, folder: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    commands: dict[str, Callable[[], Outcome]] = {
        "train": lambda: train("--out", folder / "run", "--resume", "--steps", 8),
        "convert": lambda: qseq("convert", folder / "data", folder / "copy"),
        "report": lambda: qseq("report", folder / "run", "--out", folder / "report.html"),
        "collect": lambda: qseq("collect", "--env", "CartPole-v1", "--episodes", 2, "--out", folder / "new"),
    }

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = snapshot(folder)
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)  # everything durable passes here
        refused(commands[command](), "space", str(folder))
    after = snapshot(folder)
    assert {path: after[path] for path in before if path != "run/metrics.jsonl"} == {
        path: digest for path, digest in before.items() if path != "run/metrics.jsonl"
    }, "what was there before must be intact"
    assert commands[command]().status == 0, "with space again the same command must succeed"


def test_nothing_is_written_over(qseq: Command, folder: Path) -> None:
    before = snapshot(folder)
    refused(qseq("convert", folder / "data", folder / "run"), str(folder / "run"), "exists")
    refused(qseq("report", folder / "run", "--out", folder / "data"), "is a folder")
    refused(qseq("report", folder / "data", "--out", folder / "report.html"), "not a run folder")
    assert snapshot(folder) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--algo", "bc"], ("--data", "--out")),
        (["train", "--algo", "bc", "--data", "d", "--out", "o", "--steps", "0"], ("--steps", "'0'")),
        (["train", "--algo", "bc", "--data", "d", "--out", "o", "--stepz", "1"], ("--stepz",)),
        (["train", "--algo", "bc", "--data", "d", "--out", "o", "wat"], ("wat",)),
        (["evaluate", "run", "--env", "E", "--episodes", "1", "--env-kwargs", "{"], ("--env-kwargs", "JSON")),
        (["evaluate", "run", "--env", "E", "--episodes", "1", "--env-kwargs", "[]"], ("--env-kwargs", "object")),
        (["evaluate", "run", "--env", "E", "--episodes", "many"], ("--episodes", "many")),
        (["evaluate", "run", "--env", "E", "--episodes", "1", "--policy-options", "x"], ("--policy-options",)),
        (["collect", "--out", "o"], ("--env",)),
        (["fly"], ("fly",)),
        ([], ("COMMAND",)),
    ],
)
def test_wrong_usage(qseq: Command, arguments: list[str], words: tuple[str, ...]) -> None:
    refused(qseq(*arguments), *words)


def test_debugging_adds_the_traceback(qseq: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_DEBUG", "1")
    outcome = qseq("inspect", "nothing-here")
    assert outcome.status == 2
    assert "Traceback" in outcome.err


def test_tiny_settings_are_valid() -> None:
    assert all("=" in setting for setting in TINY)
