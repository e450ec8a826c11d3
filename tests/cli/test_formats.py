"""Data in other people's formats, as a person would type them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.tools import TINY, Command, make_store, truncate

pytest.importorskip("pyarrow")


@pytest.fixture(autouse=True)
def _cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QSEQ_CACHE", str(tmp_path / "cache"))


def weights(run: Path) -> dict[str, bytes]:
    newest = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    found = {str(path.relative_to(newest)): path.read_bytes() for path in newest.rglob("*.safetensors")}
    assert found
    return found


def test_a_policy_trained_from_a_copy_in_lerobots_format_is_the_same(qseq: Command, tmp_path: Path) -> None:
    store, copy = make_store(tmp_path / "data"), f"lerobot:{tmp_path / 'copy'}"
    assert qseq("convert", store, copy).status == 0
    for name, data in (("a", store), ("b", copy)):
        where = ["--algo", "q-transformer", "--data", data, "--out", tmp_path / name]
        outcome = qseq("train", *where, "--steps", 4, "--seed", 3, *TINY)
        assert outcome.status == 0, outcome.err
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("a", "b")
    ]
    assert losses[0] == losses[1]


def test_inspect_says_the_same_of_a_copy(qseq: Command, tmp_path: Path) -> None:
    store, copy = make_store(tmp_path / "data"), f"lerobot:{tmp_path / 'copy'}"
    qseq("convert", store, copy)
    found, expected = (json.loads(qseq("inspect", data, "--json").out) for data in (copy, store))
    assert found | {"path": ""} == expected | {"path": ""}


def test_convert_prints_what_was_not_kept(qseq: Command, tmp_path: Path) -> None:
    outcome = qseq("convert", make_store(tmp_path / "data"), f"lerobot:{tmp_path / 'copy'}", "--fps", "30")
    assert outcome.out.splitlines() == [
        "note: the observation after each last action is in meta/qseq_episodes: the lerobot package does not see it",
        f"converted 6 episodes, 72 steps: lerobot:{tmp_path / 'copy'}",
    ]


def test_progress_is_told(qseq: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "1")
    store, copy = make_store(tmp_path / "data"), f"lerobot:{tmp_path / 'copy'}"
    for source, destination in ((store, copy), (copy, tmp_path / "t")):
        assert "6/6 episodes" in qseq("convert", source, destination).err


def test_damaged_data_are_named(qseq: Command, tmp_path: Path) -> None:
    qseq("convert", make_store(tmp_path / "data"), f"lerobot:{tmp_path / 'copy'}")
    truncate(tmp_path / "copy" / "data" / "chunk-000" / "file-000.parquet")
    outcome = qseq("convert", f"lerobot:{tmp_path / 'copy'}", tmp_path / "t")
    assert outcome.status == 2
    assert "file-000.parquet is damaged" in outcome.error
    assert not (tmp_path / "t").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["robomimic:absent.hdf5", "t"], "found no such file"),
        (["lerobot:./absent", "t"], "is not a LeRobot data set"),
        (["data", "robomimic:t"], "robomimic data can be read only"),
        (["data", "lerobot:t", "--fps", "0"], "expected a positive number of frames a second"),
        (["data", "lerobot:t", "--images", "gif"], "expected 'video' or 'png'"),
        (["data", "rlds:t"], "expected 'store:DIR'"),
    ],
)
def test_wrong_requests(
    qseq: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_store(tmp_path / "data")
    outcome = qseq("convert", *arguments)
    assert outcome.status == 2
    assert message in outcome.error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
