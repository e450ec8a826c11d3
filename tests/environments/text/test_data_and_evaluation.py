from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from qseq.environments.text import Message, PlayerShare, TextEnvironment, TextStep, make_text_environment
from qseq.errors import DataError, QseqError, RequestError
from qseq.evaluation.text import evaluate_text
from qseq.evaluation.text_actors import RecentTurns, ScriptedTextActor
from qseq.evaluation.text_data import cut_row, generate_rows, read_rows, return_of, summarise_rows, write_rows

MAZE = {"style": "short"}


class Counting(TextEnvironment):
    """Counts to `seed % 5 + 1`; a reward of 1 for the right number, then the end."""

    def reset(self, seed: int) -> str:
        self._goal, self._count = seed % 5 + 1, 0
        return f"count to {self._goal}"

    def step(self, action: str) -> TextStep:
        self._count += 1
        right = action == str(self._count)
        return TextStep(f"heard {action}", float(right), not right or self._count == self._goal, False)


def count(histories: list[list[Message]]) -> list[str]:
    return [str(len(history) // 2 + 1) for history in histories]


def test_an_environment_of_ones_own_and_a_function_as_policy() -> None:
    result = evaluate_text(count, Counting, episodes=40, num_envs=7)
    alone = evaluate_text(count, Counting, episodes=40, num_envs=1)
    assert [row["return"] for row in result.rows] == [row["return"] for row in alone.rows]
    assert [row["return"] for row in result.rows] == [row["length"] for row in result.rows]
    assert result.success_rate is None
    named = evaluate_text(count, "text:environments.text.test_data_and_evaluation:Counting", episodes=40)
    assert named.mean_return == result.mean_return
    assert result.return_ci95[0] < result.mean_return < result.return_ci95[1]


def test_success_has_an_interval() -> None:
    result = evaluate_text(lambda histories: ["move down"] * len(histories), "text:maze", MAZE, episodes=50)
    assert result.success_rate is not None
    assert result.success_ci95 is not None
    assert result.success_ci95[0] < result.success_rate < result.success_ci95[1]


def test_a_policy_sees_recent_turns_only() -> None:
    seen: list[int] = []

    class Watching:
        def act(self, histories: list[list[Message]]) -> list[str]:
            seen.extend(len(history) for history in histories)
            assert all(history[0]["role"] == history[-1]["role"] == "user" for history in histories)
            return ["move up"] * len(histories)

    evaluate_text(RecentTurns(Watching(), 2), "text:maze", {"horizon": 5}, episodes=1)
    assert seen in ([1, 3, 3, 3, 3], [1, 3, 3, 3], [1, 3, 3], [1, 3], [1])
    assert max(seen) == 3


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        (lambda histories: [], "gave 0 actions for 3 games"),
        (lambda histories: [None] * len(histories), "Counting, game 0, turn 0: the policy gave NoneType"),
    ],
)
def test_policies_that_do_not_answer(policy: object, message: str) -> None:
    with pytest.raises(QseqError, match=message):
        evaluate_text(policy, Counting, episodes=3)  # type: ignore[arg-type]


def test_rows_are_a_function_of_the_seed() -> None:
    rows = list(generate_rows("text:maze", MAZE, games=6, seed=3))
    assert rows == list(generate_rows("text:maze", MAZE, games=6, seed=3))
    assert rows[:4] == list(generate_rows("text:maze", MAZE, games=4, seed=3))
    assert rows != list(generate_rows("text:maze", MAZE, games=6, seed=4))


def test_rows_follow_the_convention() -> None:
    ends = set()
    for row in generate_rows("text:maze", MAZE, games=60):
        roles = [message["role"] for message in row["messages"]]
        assert roles == (["user", "assistant"] * len(roles))[: len(roles)]
        assert roles.count("assistant") == len(row["rewards"])
        # The state that the value goes on from is there exactly where the game was cut off.
        assert roles[-1] == ("user" if row["truncated"] else "assistant")
        assert row["terminated"] != row["truncated"]
        assert row["terminated"] == row["metadata"]["success"]
        ends.add(row["truncated"])
    assert ends == {True, False}


def test_files_round_trip_and_are_whole_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    rows = list(generate_rows("text:maze", MAZE, games=5))
    assert write_rows(path, rows) == summarise_rows(rows)
    assert list(read_rows(path)) == rows

    def failing() -> object:
        yield rows[0]
        raise KeyboardInterrupt

    before = path.read_bytes()
    with pytest.raises(KeyboardInterrupt):
        write_rows(path, failing())  # type: ignore[arg-type]
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["rows.jsonl"]
    with pytest.raises(RequestError, match="no rows"):
        write_rows(tmp_path / "none.jsonl", [])
    assert not (tmp_path / "none.jsonl").exists()
    path.write_text(json.dumps(rows[0]) + "\n[1]\n")
    with pytest.raises(DataError, match="line 2: found list"):
        list(read_rows(path))


def test_pieces_of_a_game_hold_it_all() -> None:
    rng = np.random.default_rng(0)
    for row in generate_rows("text:maze", MAZE, games=30):
        pieces = cut_row(row, (1, 4), rng)
        assert [reward for piece in pieces for reward in piece["rewards"]] == row["rewards"]
        messages = [message for piece in pieces for message in piece["messages"][: 2 * len(piece["rewards"])]]
        assert messages == row["messages"][: 2 * len(row["rewards"])]
        assert all(piece["truncated"] and not piece["terminated"] for piece in pieces[:-1])
        for piece, following in pairwise(pieces):
            assert piece["messages"][-1] == following["messages"][0]  # the state the value goes on from
        assert pieces[-1]["messages"][-1] == row["messages"][-1]
        assert (pieces[-1]["terminated"], pieces[-1]["truncated"]) == (row["terminated"], row["truncated"])


def test_pieces_go_on_in_what_the_policy_will_see() -> None:
    rng = np.random.default_rng(0)
    for row in generate_rows("text:maze", MAZE, games=20):
        pieces = cut_row(row, (1, 4), rng, window=3)
        begin = 0
        for piece in pieces:
            end = begin + len(piece["rewards"])
            assert piece["messages"] == row["messages"][2 * begin : 2 * end]
            assert ("next_messages" in piece) == piece["truncated"]
            if piece["truncated"]:
                assert piece["next_messages"] == row["messages"][max(0, 2 * end - 4) : 2 * end + 1]
            begin = end
        if row["truncated"]:
            seen = RecentTurns(lambda histories: [str(histories[0])], 3).act([row["messages"]])
            assert [str(pieces[-1]["next_messages"])] == seen
    with pytest.raises(RequestError, match="window=5"):
        cut_row(row, (1, 4), rng, window=5)


def test_pieces_with_folded_returns_keep_the_returns_to_the_games_end() -> None:
    rng = np.random.default_rng(1)
    for row in generate_rows("text:maze", MAZE, games=20):
        pieces = cut_row(row, (2, 5), rng, fold_returns=True)
        begin = 0
        for piece in pieces:
            assert return_of(piece) == pytest.approx(sum(row["rewards"][begin:]))
            assert piece["terminated"]
            assert piece["messages"][-1]["role"] == "assistant"
            begin += len(piece["rewards"])


def test_who_played_is_drawn_by_the_shares() -> None:
    players = "scripted:qseq.environments.text.maze_players"
    mix = [
        PlayerShare(player=f"{players}:Walker", share=3, arguments={"noise": 0.2}),
        PlayerShare(player=f"{players}:RandomMover", share=1),
    ]
    statistics = summarise_rows(generate_rows("text:maze", MAZE, games=400, players=mix))
    assert 260 < statistics.players["Walker"] < 340
    assert statistics.games == sum(statistics.players.values()) == 400


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("text:mase", "the nearest is text:maze"),
        ("text:no.such.module:X", "cannot be imported"),
        ("text:qseq.environments.text.maze:Labyrinth", "no class or function 'Labyrinth'"),
        ("text:builtins:dict", "found dict, expected a TextEnvironment"),
    ],
)
def test_unknown_environments(name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_text_environment(name)


def test_wrong_players() -> None:
    with pytest.raises(RequestError, match="not all 0"):
        ScriptedTextActor([])
    player = PlayerShare(player="scripted:qseq.environments.text.maze_players:Walker", share=1, arguments={"speed": 2})
    with pytest.raises(RequestError, match="refuses its arguments"):
        list(generate_rows("text:maze", games=1, players=[player]))
    with pytest.raises(RequestError, match="is not known"):
        generate_rows("text:environments.text.test_data_and_evaluation:Counting", games=1)
    with pytest.raises(RequestError, match="has no list of starts"):
        evaluate_text(count, Counting, episodes=1, every_start=True)


def test_policies_that_respond() -> None:
    """Trained language policies: conversations in games of several turns, texts in those of one."""
    asked: list[object] = []

    class Answering:
        def respond(self, prompts: list[object]) -> list[str]:
            asked.extend(prompts)
            return ["ba"] * len(prompts)

    evaluate_text(Answering(), "text:random-walks", episodes=2)
    assert all(isinstance(prompt, str) and len(prompt) == 1 for prompt in asked)
    asked.clear()
    evaluate_text(RecentTurns(Answering(), 1), "text:maze", {**MAZE, "horizon": 2}, episodes=1)
    assert [len(prompt) for prompt in asked] == [1, 1]  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="expected a policy with act"):
        evaluate_text(3, Counting, episodes=1)


class Broken(Counting):
    def step(self, action: str) -> TextStep:
        return TextStep("", float("nan"), False, False)


class Endless(Counting):
    """Ends and is cut off at once, and knows a success."""

    def step(self, action: str) -> TextStep:
        return TextStep("over", 1.0, True, True)

    def success(self) -> bool:
        return True


def test_environments_that_give_what_is_not_valid() -> None:
    with pytest.raises(QseqError, match=r"Broken, game 0, turn 0: the environment gave reward nan"):
        evaluate_text(count, Broken, episodes=1)
    with pytest.raises(RequestError, match="give them to your function"):
        evaluate_text(count, Counting, {"length": 3}, episodes=1)
    with pytest.raises(RequestError, match="expected at least 1 of each"):
        evaluate_text(count, Counting, episodes=0)
    (row,) = evaluate_text(count, Endless, episodes=1).rows
    assert (row["terminated"], row["truncated"], row["success"]) == (True, False, True)  # an end is an end


def test_games_side_by_side_are_the_same_games() -> None:
    players = [PlayerShare(player="scripted:qseq.environments.text.maze_players:RandomMover", share=1)]
    alone = list(generate_rows("text:maze", MAZE, games=6, players=players))
    beside = list(generate_rows("text:maze", MAZE, games=6, players=players, num_envs=4))
    assert sorted(beside, key=lambda row: row["metadata"]["index"]) == alone


@pytest.mark.parametrize(("turns", "message"), [((0, 2), "turns"), ((3, 2), "turns")])
def test_pieces_that_cannot_be_cut(turns: tuple[int, int], message: str) -> None:
    row = next(generate_rows("text:maze", MAZE, games=1))
    with pytest.raises(RequestError, match=message):
        cut_row(row, turns, np.random.default_rng(0))
    with pytest.raises(DataError, match="expected one with messages"):
        cut_row({"prompt": "a", "completion": "b"}, (1, 2), np.random.default_rng(0))
    with pytest.raises(DataError, match="expected one an action"):
        cut_row({**row, "rewards": []}, (1, 2), np.random.default_rng(0))
