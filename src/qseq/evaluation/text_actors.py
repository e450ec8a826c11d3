"""Who plays text games: a policy asked for all games at once, or scripted players, one made for each game."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import numpy as np

from qseq.environments.scripted import load_scripted
from qseq.environments.text import Message, Player, PlayerShare, TextEnvironment
from qseq.errors import RequestError

History = list[Message]


class TextPolicy(Protocol):
    """What a policy of text games offers; `respond(prompts)`, as language policies have it, will do too."""

    def act(self, histories: list[History]) -> list[str]:
        """One action a game; each history ends with what the environment said last."""


Answers = Callable[[list[History]], list[str]]


def answers_of(policy: Any, *, single_turn: bool = False) -> Answers:
    """How to ask a policy for actions: its `act`, its `respond`, or the policy itself where it is a function.

    Args:
        policy: `respond` is given conversations, or texts where games are of a single turn: that is how it was trained.
        single_turn: whether games are of a single turn.

    Raises:
        RequestError: it has none of these.
    """
    if callable(act := getattr(policy, "act", None)):
        return cast(Answers, act)
    if callable(respond := getattr(policy, "respond", None)):
        if single_turn:
            return lambda histories: list(respond([history[0]["content"] for history in histories]))
        return cast(Answers, respond)
    if callable(policy):
        return cast(Answers, policy)
    raise RequestError(
        f"found {type(policy).__name__}, expected a policy with act(histories) or respond(prompts), or a function"
    )


class TextActor(ABC):
    """Gives an action for each game that goes on; a slot is one of the environments played side by side."""

    def start(self, slot: int, environment: TextEnvironment, rng: np.random.Generator) -> str:
        """A game has begun in `slot`; choices are drawn from `rng`. Returns the player's name, for the records."""
        return "policy"

    @abstractmethod
    def act(self, slots: Sequence[int], histories: list[History]) -> list[str]:
        """One action for each of the slots."""


class PolicyTextActor(TextActor):
    """A policy that is asked for all games at once; see `answers_of`."""

    def __init__(self, policy: Any, *, single_turn: bool = False) -> None:
        self._answers = answers_of(policy, single_turn=single_turn)

    def act(self, slots: Sequence[int], histories: list[History]) -> list[str]:
        return list(self._answers(histories))


class ScriptedTextActor(TextActor):
    """Scripted players: who plays a game is drawn by the players' shares.

    Args:
        players: at least one, with shares that are not negative and not all 0.

    Raises:
        RequestError: a player does not exist, or the shares are not as above.
    """

    def __init__(self, players: Sequence[PlayerShare]) -> None:
        shares = np.array([part.share for part in players], dtype=np.float64)
        if not len(shares) or (shares < 0).any() or not np.isfinite(shares).all() or shares.sum() == 0:
            raise RequestError(f"shares of the players: found {shares.tolist()}, expected numbers >= 0, not all 0")
        self._players = tuple(players)
        self._probabilities = shares / shares.sum()
        self._factories = [load_scripted(part.player) for part in players]
        self._playing: dict[int, Player] = {}

    def start(self, slot: int, environment: TextEnvironment, rng: np.random.Generator) -> str:
        which = int(rng.choice(len(self._players), p=self._probabilities))
        part = self._players[which]
        try:
            player: Any = self._factories[which](environment, rng, **part.arguments)
        except TypeError as error:
            raise RequestError(f"{part.player} refuses its arguments {dict(part.arguments)}: {error}") from error
        self._playing[slot] = player
        return part.player.rpartition(":")[2]

    def act(self, slots: Sequence[int], histories: list[History]) -> list[str]:
        return [self._playing[slot].act(history) for slot, history in zip(slots, histories, strict=True)]


class RecentTurns:
    """A policy that is shown the last `turns` of the environment's messages and its own between them.

    For tasks whose last text says everything, and for models trained on pieces of games (see `cut_row`).
    """

    def __init__(self, policy: Any, turns: int) -> None:
        if turns < 1:
            raise RequestError(f"turns={turns}: expected at least 1")
        self._answers, self._messages = answers_of(policy), 2 * turns - 1

    def act(self, histories: list[History]) -> list[str]:
        return self._answers([history[-self._messages :] for history in histories])


def scripted(name: str, arguments: Mapping[str, Any] | None = None) -> ScriptedTextActor:
    """One scripted player, "scripted:package.module:NAME"."""
    return ScriptedTextActor([PlayerShare(player=name, share=1.0, arguments=arguments or {})])
