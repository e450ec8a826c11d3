"""The text tasks by name, each with the mix of players whose games make its data.

"text:maze" is a task of this table, "text:package.module:NAME" a `TextEnvironment` of your own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Literal

from qseq.environments.text.base import TextEnvironment
from qseq.errors import RequestError

PREFIX = "text:"
_HERE = "qseq.environments.text"


@dataclass(frozen=True, kw_only=True)
class PlayerShare:
    """A scripted player's part in a mix: each game is played by one of the players, drawn by their shares."""

    player: str
    """scripted:package.module:NAME"""
    share: float
    """Its games' share, relative to the others'."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the player."""


@dataclass(frozen=True, kw_only=True)
class TextTask:
    """An environment with its arguments and the players of its data."""

    environment: str
    """package.module:NAME"""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments that make the environment this task."""
    players: tuple[PlayerShare, ...]
    """Mixed skills; few games succeed."""
    best: str
    """The player who attains the optimum, scripted:package.module:NAME."""
    tokens: Literal["words", "characters"] = "words"
    """What a token of its small tokenizer is."""


def _share(module: str, player: str, share: float, **arguments: Any) -> PlayerShare:
    return PlayerShare(player=f"scripted:{_HERE}.{module}:{player}", share=share, arguments=arguments)


_MAZE_PLAYERS = (
    _share("maze_players", "MisledWalker", 0.55, noise=0.1),
    _share("maze_players", "RandomMover", 0.40),
    _share("maze_players", "Walker", 0.05, noise=0.5),
)

TASKS: dict[str, TextTask] = {
    "maze": TextTask(
        environment=f"{_HERE}.maze:Maze",
        players=_MAZE_PLAYERS,
        best=f"scripted:{_HERE}.maze_players:Walker",
    ),
    "maze-partial": TextTask(
        environment=f"{_HERE}.maze:Maze",
        arguments={"observed": "partially"},
        players=_MAZE_PLAYERS,
        best=f"scripted:{_HERE}.maze_players:BeliefWalker",
    ),
    "wordle": TextTask(
        environment=f"{_HERE}.wordle:Wordle",
        players=(
            _share("wordle_players", "RandomGuesser", 0.87),
            _share("wordle_players", "RandomGuesser", 0.09, consistent=0.2),
            _share("wordle_players", "RandomGuesser", 0.04, consistent=0.8),
        ),
        best=f"scripted:{_HERE}.wordle_players:BestGuesser",
        tokens="characters",
    ),
    "random-walks": TextTask(
        environment=f"{_HERE}.random_walks:RandomWalks",
        players=(_share("random_walk_players", "RandomWalker", 1.0),),
        best=f"scripted:{_HERE}.random_walk_players:ShortestWalker",
        tokens="characters",
    ),
    "toll-road": TextTask(
        environment=f"{_HERE}.toll_road:TollRoad",
        players=(
            _share("toll_road_players", "RandomDriver", 0.7),
            _share("toll_road_players", "ThriftyDriver", 0.3, noise=0.2),
        ),
        best=f"scripted:{_HERE}.toll_road_players:BestDriver",
        tokens="characters",
    ),
    "market": TextTask(
        environment=f"{_HERE}.market:Market",
        players=(
            _share("market_players", "RandomTrader", 0.7),
            _share("market_players", "ThumbTrader", 0.3, noise=0.3),
        ),
        best=f"scripted:{_HERE}.market_players:BestTrader",
    ),
}


def find_task(name: str) -> TextTask:
    """The task called "text:NAME" (or "NAME").

    Raises:
        RequestError: there is none.
    """
    short = name.removeprefix(PREFIX)
    if short not in TASKS:
        close = difflib.get_close_matches(short, TASKS, n=1)
        hint = f"; the nearest is text:{close[0]}" if close else ""
        raise RequestError(
            f"text environment '{name}' is not known: expected text: with one of {', '.join(TASKS)}, or "
            f"text:package.module:NAME{hint}"
        )
    return TASKS[short]


def make_text_environment(name: str, arguments: Mapping[str, Any] | None = None) -> TextEnvironment:
    """A text environment by its name.

    Args:
        name: "text:maze" and so on (see `TASKS`), or "text:package.module:NAME" for a class or function of your own.
        arguments: its keyword arguments.

    Raises:
        RequestError: there is no such environment, or it does not take the arguments.
    """
    short = name.removeprefix(PREFIX)
    if ":" in short:
        path, own = short, dict(arguments or {})
    else:
        task = find_task(name)
        path, own = task.environment, {**task.arguments, **(arguments or {})}
    module_name, _, attribute = path.rpartition(":")
    try:
        factory = getattr(import_module(module_name), attribute, None)
    except ImportError as error:
        raise RequestError(f"text environment '{name}': '{module_name}' cannot be imported: {error}") from error
    if not callable(factory):
        raise RequestError(f"text environment '{name}': '{module_name}' has no class or function '{attribute}'")
    try:
        environment = factory(**own)
    except TypeError as error:
        raise RequestError(f"text environment '{name}' refuses its arguments {own}: {error}") from error
    if not isinstance(environment, TextEnvironment):
        raise RequestError(f"text environment '{name}': found {type(environment).__name__}, expected a TextEnvironment")
    return environment
