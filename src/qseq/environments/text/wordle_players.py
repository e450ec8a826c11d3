"""Scripted players of Wordle: by chance, carelessly consistent, by entropy, and the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from qseq.environments.text.base import Message, TextEnvironment
from qseq.environments.text.wordle import NOT_A_WORD, Wordle, number
from qseq.environments.text.wordle_search import search_of
from qseq.errors import RequestError


class RandomGuesser:
    """Guesses any word of the list.

    Args:
        environment: the game; only its list is looked at.
        rng: source of all randomness.
        consistent: share of the guesses that are drawn from the words that all answers so far allow; 1 never guesses
            what cannot be, 0 learns nothing.
    """

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator, *, consistent: float = 0.0) -> None:
        if not 0.0 <= consistent <= 1.0:
            raise RequestError(f"RandomGuesser: consistent={consistent}, expected a number in [0, 1]")
        self._game, self._rng, self._consistent = _wordle(environment), rng, consistent

    def act(self, history: Sequence[Message]) -> str:
        if self._rng.uniform() < self._consistent:
            words = possible(self._game, history)
        else:
            words = np.arange(len(self._game.words))
        return self._game.words[int(words[self._rng.integers(len(words))])]


class EntropyGuesser:
    """Guesses what tells most: the word whose answer has the greatest entropy, a possible secret where two tie."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._game = _wordle(environment)

    def act(self, history: Sequence[Message]) -> str:
        secrets = possible(self._game, history)
        if len(secrets) <= 2:
            return self._game.words[int(secrets[0])]
        answers = self._game.patterns[:, secrets]
        entropies = np.array([_entropy(np.bincount(row)) for row in answers])
        entropies[secrets] += 1e-6
        return self._game.words[int(entropies.argmax())]


class BestGuesser:
    """The exact optimum, for lists of up to some hundred words."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._game = _wordle(environment)

    def act(self, history: Sequence[Message]) -> str:
        secrets = tuple(int(secret) for secret in possible(self._game, history))
        tries = self._game.tries - len(history) // 2
        return self._game.words[search_of(self._game.words).best(secrets, tries)[1]]


def possible(game: Wordle, history: Sequence[Message]) -> npt.NDArray[np.int64]:
    """Numbers of the words that all answers so far allow."""
    allowed = np.ones(len(game.words), dtype=bool)
    for said, answer in zip(history[1::2], history[2::2], strict=False):
        if answer["content"] != NOT_A_WORD:
            guess = game.indices["".join(said["content"].split()).lower()]
            allowed &= game.patterns[guess] == number(answer["content"])
    return np.flatnonzero(allowed)


def _entropy(counts: npt.NDArray[np.int64]) -> float:
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


def _wordle(environment: TextEnvironment) -> Wordle:
    if not isinstance(environment, Wordle):
        raise RequestError(f"this player plays Wordle, found {type(environment).__name__}")
    return environment
