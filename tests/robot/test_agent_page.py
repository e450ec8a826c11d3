"""The code of docs/agent.md runs as it is printed, but shorter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "agent.md"


def test_the_example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    shorter = code.replace("num_episodes=200", "num_episodes=3").replace("num_train_steps=2000", "num_train_steps=2")
    assert shorter != code
    exec(shorter, {})
    assert (tmp_path / "replay_memories_data" / "schema.json").is_file()
