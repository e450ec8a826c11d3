"""A benchmark reports a finished training only: what an interrupted one left is trained to the end first."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from support.scripts import load_script


@pytest.fixture
def cells(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """benchmarks/_cells.py, whose command writes down what it was asked instead of doing it."""
    module = load_script("benchmarks/_cells.py")
    module.asked = []  # type: ignore[attr-defined]
    monkeypatch.setattr(module, "qseq", lambda *arguments: module.asked.append(arguments))
    return module


def write_metrics(run: Path, *lines: tuple[int, float]) -> None:
    records = [json.dumps({"step": step, "steps_per_second": rate}) for step, rate in lines]
    (run / "metrics.jsonl").write_text("\n".join(records) + "\n")


def test_an_interrupted_training_is_resumed_although_it_left_a_checkpoint(cells: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "latest").mkdir(parents=True)
    write_metrics(tmp_path, (100, 10.0), (150, 5.0))
    assert cells.train_to_end(tmp_path, "--algo", "bc") == 20.0
    assert cells.asked == [("train", "--algo", "bc", "--out", str(tmp_path), "--resume")]


def test_a_new_training_is_not_resumed(cells: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"

    def train(*arguments: str) -> None:
        assert "--resume" not in arguments
        run.mkdir()
        write_metrics(run, (4, 2.0))

    monkeypatch.setattr(cells, "qseq", train)
    assert cells.train_to_end(run, "--algo", "bc") == 2.0


def test_an_interrupted_collection_is_done_again(cells: ModuleType, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    cells.collect_once(store, "--episodes", "3")
    assert cells.asked == [("collect", "--episodes", "3", "--out", str(store))]
    cells.collect_once(store, "--episodes", "3")
    assert len(cells.asked) == 1


def test_an_interrupted_cell_leaves_no_line(cells: ModuleType, tmp_path: Path) -> None:
    results = cells.ResultLines("nothing-yet")
    results.path = tmp_path / "results.jsonl"
    assert results.read() == []

    def measured() -> list[dict[str, int]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        results.add({"a": 1}, *measured())
    assert results.read() == []
    results.add({"a": 1}, {"a": 2})
    assert results.read() == [{"a": 1}, {"a": 2}]


def test_peak_memory_is_not_inherited_from_the_process_that_started_one() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    larger = bytearray(400_000_000)
    larger[::4096] = b"x" * len(larger[::4096])  # pages that were never written to do not count
    command = [sys.executable, "-c", "from _machine import peak_bytes; print(peak_bytes())"]
    told = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert len(larger) > 4 * int(told.stdout)
