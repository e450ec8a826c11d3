"""Every byte of a checkpoint is checked before it is used."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from qseq.errors import DataError, RequestError
from qseq.training import latest_checkpoint, read_record
from qseq.training.checkpoint import write_checkpoint
from training.toy_problem import toy_config, toy_trainer

FILES = ("model.safetensors", "target.safetensors", "optimizer.safetensors", "trainer.json")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("trained") / "run"
    toy_trainer(run, toy_config()).train()
    return run


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "missing"])
def test_damage_is_found_and_named(tmp_path: Path, trained: Path, name: str, damage: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    path = latest_checkpoint(run) / name
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    else:
        content[len(content) // 2] ^= 0b100
        path.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(str(path))):
        toy_trainer(run, toy_config(steps=14)).train(resume=True)


def test_message_has_found_and_expected(tmp_path: Path, trained: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    path = latest_checkpoint(tmp_path / "run") / "model.safetensors"
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=f"found {size - 1} bytes, expected {size}"):
        read_record(path.parent)


def test_any_flipped_bit_of_the_record_is_found(tmp_path: Path, trained: Path) -> None:
    folder = tmp_path / "step"
    shutil.copytree(latest_checkpoint(trained), folder)
    content = (folder / "trainer.json").read_bytes()
    for position in range(0, len(content), 997):
        damaged = bytearray(content)
        damaged[position] ^= 1
        (folder / "trainer.json").write_bytes(damaged)
        try:
            record = read_record(folder)
        except DataError:
            continue
        (folder / "trainer.json").write_bytes(content)
        assert record == read_record(folder)  # it fell on white space


def test_keeps_the_newest_and_clears_leftovers(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        (tmp_path / ".step_00000009.tmp").mkdir()
        write_checkpoint(tmp_path, step, lambda folder: None, {"step": step}, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000002", "step_00000003"]
    assert (tmp_path / "latest").read_text() == "step_00000003\n"


def test_no_checkpoint_yet(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no checkpoint found"):
        latest_checkpoint(tmp_path)


@pytest.mark.parametrize("pointer", ["../../elsewhere", "step_1/../..", "", "\x00"])
def test_pointer_outside_the_folder_is_refused(tmp_path: Path, pointer: str) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest").write_text(pointer)
    with pytest.raises(DataError, match="expected the name of a checkpoint"):
        latest_checkpoint(tmp_path)
