"""Text environments: what is seen and what is done are both text.

An environment of your own needs `reset` and `step`; the rest has defaults. Tasks whose games start in one of finitely
many states derive from `FiniteStarts`, so that they can be measured from each of them exactly once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, NamedTuple, Protocol, TypedDict

import numpy as np

from qseq.errors import RequestError


class Message(TypedDict):
    """One turn: "user" is the environment, "assistant" the player, as in conversational data sets."""

    role: Literal["user", "assistant"]
    content: str


class TextStep(NamedTuple):
    """What an action leads to.

    Attributes:
        text: what is seen next; where the game has ended, its closing words.
        reward: of this action.
        terminated: the game is over by its rules: there is nothing after it.
        truncated: the game was cut off at its length limit: more would have followed.
    """

    text: str
    reward: float
    terminated: bool
    truncated: bool


class TextEnvironment(ABC):
    """A game played in text, one player.

    Attributes:
        single_turn: a game is one answer to one prompt; its rows hold `prompt` and `completion`, else `messages`.
    """

    single_turn: ClassVar[bool] = False

    @abstractmethod
    def reset(self, seed: int) -> str:
        """Begin a game; the start is a function of `seed`. Returns the first text."""

    @abstractmethod
    def step(self, action: str) -> TextStep:
        """Take an action, any text: what is not understood must be answered, not raised."""

    def success(self) -> bool | None:
        """Whether the game so far is a success; None where the task knows no such thing."""
        return None

    def token_rewards(self) -> list[float] | None:
        """Single-turn tasks with a reward a token: the rewards of the last answer's tokens; else None."""
        return None

    def vocabulary(self) -> list[str]:
        """Every word (cut at white space) that the environment says or understands; for `make_tokenizer`.

        Raises:
            RequestError: it has no closed vocabulary.
        """
        raise RequestError(f"{type(self).__name__} names no vocabulary: use a tokenizer of your own")


class FiniteStarts(TextEnvironment):
    """A task that starts in one of `num_starts` states, all equally likely."""

    @property
    @abstractmethod
    def num_starts(self) -> int:
        """How many starts there are."""

    @abstractmethod
    def reset_to(self, start: int) -> str:
        """Begin a game at start number `start`; returns the first text."""

    @abstractmethod
    def optimal_return(self) -> float:
        """The greatest mean return over all starts that a player who sees only the texts can reach, exactly."""

    def reset(self, seed: int) -> str:
        return self.reset_to(int(np.random.default_rng(seed).integers(self.num_starts)))


class Player(Protocol):
    """A scripted player: made anew for each game by a `PlayerFactory`, it draws from its own source only."""

    def act(self, history: Sequence[Message]) -> str:
        """The action after `history`, whose last message is the environment's."""


# (environment, source of randomness, further arguments) -> player. Players may look into the environment.
PlayerFactory = Callable[..., Player]
