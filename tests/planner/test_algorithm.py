"""What of the data a planner is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

from qseq.planner.algorithm import train
from qseq.registry import load_policy
from tests.planner.worlds import JOINT, config_of, walk, write_view

GOOD, BAD = 10, 30


@pytest.mark.parametrize(
    ("overrides", "windows"),
    [
        ([], GOOD + BAD),
        (["data.success_share=0.75"], 9 * GOOD + BAD),
        (["data.success_share=0.75", "data.relabel.success_return=1000"], GOOD + BAD),
        (["data.successes_only=true"], GOOD),
    ],
)
def test_a_return_says_what_a_success_is_and_how_often_it_is_shown(
    overrides: list[str], windows: int, tmp_path: Path
) -> None:
    """One good walk of ten steps and bad ones of thirty; nothing in the data says which is which but the rewards."""
    write_view(tmp_path / "store", [walk(BAD, 0), walk(GOOD, 1, reward=1.0)])
    config = config_of(*JOINT, "data.relabel.success_return=9", *overrides)
    train(config, data=[str(tmp_path / "store")], run=tmp_path / "run")
    assert load_policy(tmp_path / "run").spec.counts["windows"] == windows  # type: ignore[attr-defined]
