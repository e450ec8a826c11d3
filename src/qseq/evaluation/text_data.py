"""Text games as rows of a data set: JSON lines, one game a line.

A game of one turn is `prompt`, `completion` and `reward` (or `rewards`, one a token); a game of several turns is
`messages` and `rewards`, one an action. Every row has `terminated` and `truncated`, and `metadata` about its origin.
A truncated game ends with the environment's words: the state that its value goes on from.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from qseq.environments.text import PlayerShare, TextEnvironment, find_task, make_text_environment
from qseq.errors import DataError, RequestError
from qseq.evaluation.text_actors import ScriptedTextActor, TextActor
from qseq.evaluation.text_games import TextGame, play
from qseq.files import free_space_error, make_ordinary, sync_folder
from qseq.progress import track

Row = dict[str, Any]


@dataclass(frozen=True)
class RowStatistics:
    """What a set of rows holds.

    Attributes:
        games: rows.
        turns: actions of all of them.
        success_rate: share of successful games among those that know; None when none does.
        mean_return: mean sum of a row's rewards.
        best_return: the greatest.
        players: games of each player.
    """

    games: int
    turns: int
    success_rate: float | None
    mean_return: float
    best_return: float
    players: dict[str, int]


def generate_rows(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    games: int,
    seed: int = 0,
    players: Sequence[PlayerShare] | TextActor | None = None,
    num_envs: int = 1,
) -> Iterator[Row]:
    """Have scripted players play, and yield a row a game; row i is a pure function of (arguments, players, seed, i).

    Args:
        name: "text:maze" and so on, or "text:package.module:NAME".
        arguments: of the environment.
        games: how many.
        seed: of starts and players.
        players: who plays; the task's own mix where left out.
        num_envs: games played side by side; rows come as games end.

    Raises:
        RequestError: there is no such environment or player, or no players are given for an environment of your own.
    """
    if games < 1 or num_envs < 1:
        raise RequestError(f"games={games}, num_envs={num_envs}: expected at least 1 of each")
    environments = [make_text_environment(name, arguments) for _ in range(min(num_envs, games))]
    if players is None:
        players = find_task(name).players
    actor = players if isinstance(players, TextActor) else ScriptedTextActor(players)
    return (row_of(game, environments[0], name) for game in play(actor, environments, range(games), seed))


def row_of(game: TextGame, environment: TextEnvironment, name: str) -> Row:
    """The row of a game that has ended."""
    row: Row
    if environment.single_turn:
        row = {"prompt": game.messages[0]["content"], "completion": game.messages[1]["content"]}
        if game.token_rewards is not None:
            row["rewards"] = game.token_rewards
        else:
            row["reward"] = game.rewards[0]
    else:
        row = {"messages": game.messages, "rewards": game.rewards}
    metadata = {"environment": name, "index": game.index, "player": game.player, "success": game.success}
    return {**row, "terminated": game.terminated, "truncated": game.truncated, "metadata": metadata}


def cut_row(
    row: Row,
    turns: tuple[int, int],
    rng: np.random.Generator,
    *,
    window: int | None = None,
    fold_returns: bool = False,
) -> list[Row]:
    """A long game in pieces, for tasks whose last texts say everything: short rows train quickly.

    A piece that does not hold the game's end is truncated and ends with the state its value goes on from. In a piece of
    the greatest length that state stands where no piece has a decision, so nothing learns its value, and what is
    learnt from it is learnt everywhere: give a `window`, in which the value goes on as the policy will see it.

    Args:
        row: of a game of several turns.
        turns: least and greatest number of actions in a piece.
        rng: source of the lengths.
        window: turns that the policy is shown when it plays (`RecentTurns`), at most the greatest length: values go on
            from the last so many turns, laid out anew as `next_messages`.
        fold_returns: add the rewards of the rest of the game to a piece's last one and end it there: sums of rewards
            to the piece's end are then those to the game's end (for regression on Monte-Carlo returns).

    Raises:
        DataError: the row has no messages, or not a reward for each action.
        RequestError: turns are not 1 <= least <= greatest, or the window is longer.
    """
    low, high = turns
    if not 1 <= low <= high:
        raise RequestError(f"turns={turns}: expected 1 <= least <= greatest")
    if window is not None and not 1 <= window <= high:
        raise RequestError(f"window={window}: expected 1 to {high}, the turns of the longest piece")
    if "messages" not in row:
        raise DataError(f"a row with {', '.join(row)}: expected one with messages to cut")
    messages, rewards = row["messages"], row["rewards"]
    if len(messages) - len(rewards) not in (len(rewards), len(rewards) + 1):
        raise DataError(f"a row has {len(messages)} messages and {len(rewards)} rewards, expected one an action")
    pieces = []
    begin = 0
    while begin < len(rewards):
        end = min(len(rewards), begin + int(rng.integers(low, high + 1)))
        last = end == len(rewards)
        piece = {**row, "messages": messages[2 * begin : None if last else 2 * end + 1], "rewards": rewards[begin:end]}
        if fold_returns:
            piece["messages"] = messages[2 * begin : 2 * end]
            piece["rewards"] = [*rewards[begin : end - 1], float(sum(rewards[end - 1 :]))]
            piece["terminated"], piece["truncated"] = True, False
        elif not last:
            piece["terminated"], piece["truncated"] = False, True
        if window is not None and piece["truncated"]:
            piece["messages"] = messages[2 * begin : 2 * end]
            piece["next_messages"] = messages[: 2 * end + 1][-(2 * window - 1) :]
        pieces.append(piece)
        begin = end
    return pieces


def write_rows(path: Path, rows: Iterable[Row]) -> RowStatistics:
    """Write rows as JSON lines, one by one; `path` is there in full or as it was. Returns what they hold.

    Raises:
        RequestError: the disk is full, or there are no rows.
    """
    path = Path(path)
    tally = _Tally()
    with free_space_error(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                for row in rows:
                    file.write(json.dumps(row, ensure_ascii=False) + "\n")
                    tally.add(row)
                statistics = tally.statistics()
                file.flush()
                os.fsync(file.fileno())
            make_ordinary(temporary)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    return statistics


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a JSON-lines file, one by one.

    Raises:
        DataError: a line is not a JSON object; names it.
    """
    with Path(path).open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not valid JSON: {error.msg}") from error
            if not isinstance(row, dict):
                raise DataError(f"{path}, line {number}: found {type(row).__name__}, expected a JSON object")
            yield row


def summarise_rows(rows: Iterable[Row]) -> RowStatistics:
    """Count rows. Raises RequestError if there are none."""
    tally = _Tally()
    for row in rows:
        tally.add(row)
    return tally.statistics()


def return_of(row: Row) -> float:
    """The sum of a row's rewards."""
    return float(row["reward"]) if "reward" in row else float(sum(row["rewards"]))


def collect_text(
    name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    episodes: int,
    seed: int,
    out: Path,
    players: Sequence[PlayerShare] | TextActor | None = None,
    num_envs: int = 1,
) -> RowStatistics:
    """`generate_rows` into a file, with progress."""
    rows = generate_rows(name, arguments, games=episodes, seed=seed, players=players, num_envs=num_envs)
    return write_rows(out, track(rows, f"playing {name}", total=episodes, unit="games"))


class _Tally:
    def __init__(self) -> None:
        self._returns: list[float] = []
        self._known: list[bool] = []
        self._turns = 0
        self._players: dict[str, int] = {}

    def add(self, row: Row) -> None:
        self._returns.append(return_of(row))
        self._turns += len(row["rewards"]) if "messages" in row else 1
        metadata = row.get("metadata", {})
        if metadata.get("success") is not None:
            self._known.append(bool(metadata["success"]))
        player = metadata.get("player", "unknown")
        self._players[player] = self._players.get(player, 0) + 1

    def statistics(self) -> RowStatistics:
        if not self._returns:
            raise RequestError("there are no rows: expected at least one game")
        return RowStatistics(
            games=len(self._returns),
            turns=self._turns,
            success_rate=sum(self._known) / len(self._known) if self._known else None,
            mean_return=float(np.mean(self._returns)),
            best_return=max(self._returns),
            players=dict(sorted(self._players.items())),
        )
