from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.tools import TINY, Command, make_store
from qseq.cli.main import main


@pytest.fixture
def qseq(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.delenv("QSEQ_DEBUG", raising=False)
    monkeypatch.setenv("QSEQ_PROGRESS", "0")
    return Command(capsys)


@pytest.fixture(scope="session")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a sound store `data` and a trained run `run`; copy before changing."""
    root = tmp_path_factory.mktemp("original")
    data = make_store(root / "data")
    arguments = ["train", "--algo", "bc", "--data", str(data), "--out", str(root / "run"), "--steps", "4", *TINY]
    assert main(arguments) == 0
    return root


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy of `original` to break."""
    for name in ("data", "run"):
        shutil.copytree(original / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def newest(folder: Path) -> Path:
    return folder / "run" / "checkpoints" / (folder / "run" / "checkpoints" / "latest").read_text().strip()


@pytest.fixture
def train(qseq: Command, folder: Path) -> Callable[..., object]:
    """`qseq train` of a tiny network on `data`."""
    return lambda *more: qseq("train", "--algo", "bc", "--data", folder / "data", *TINY, *more)
