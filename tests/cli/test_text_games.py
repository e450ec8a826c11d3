from __future__ import annotations

from pathlib import Path

import pytest

from cli.tools import Command
from qseq.evaluation.text_data import generate_rows, read_rows

WALKER = "scripted:qseq.environments.text.maze_players:Walker"


def test_games_of_the_tasks_own_players(qseq: Command, tmp_path: Path) -> None:
    out = tmp_path / "new" / "rows.jsonl"
    done = qseq(
        "collect", "--env", "text:market", "--env-kwargs", '{"days": 4}', "--episodes", 9, "--seed", 2, "--out", out
    )
    assert done.status == 0, done.err
    assert "9 games, 36 turns, success" in done.out
    assert list(read_rows(out)) == list(generate_rows("text:market", {"days": 4}, games=9, seed=2))
    assert "exists already" in qseq("collect", "--env", "text:market", "--out", out).error
    assert len(list(read_rows(out))) == 9


def test_games_of_one_player(qseq: Command, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    base = ["collect", "--env", "text:maze-partial", "--out", out, "--policy", WALKER]
    assert qseq(*base, "--policy-kwargs", '{"noise": 0.5}', "--episodes", 3).status == 0
    assert {row["metadata"]["player"] for row in read_rows(out)} == {"Walker"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--env", "text:mase"], ("text:maze",)),
        (["--env", "text:maze", "--policy", "random"], ("--policy random", "scripted:")),
        (["--env", "text:maze", "--policy-kwargs", "{}"], ("--policy-kwargs", "--policy")),
        (["--env", "text:maze", "--success-return", "1"], ("--success-return",)),
        (["--env", "text:maze", "--images", "jpeg"], ("--images",)),
        (["--env", "text:maze", "--env-kwargs", '{"size": 3}'], ("refuses its arguments",)),
        (["--env", "text:maze", "--out", "."], ("is a folder",)),
    ],
)
def test_wrong_requests(qseq: Command, tmp_path: Path, arguments: list[str], words: tuple[str, ...]) -> None:
    outcome = qseq("collect", "--out", tmp_path / "rows.jsonl", *arguments)
    assert outcome.status == 2
    assert all(word in outcome.error for word in words)
    assert list(tmp_path.iterdir()) == []
