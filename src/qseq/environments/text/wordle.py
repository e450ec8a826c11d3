"""Wordle in text: guess a secret word of five letters in a few tries.

After each guess a letter is g (right place), y (in the word, but elsewhere) or b (not in the word); a letter that a
guess repeats is marked as often as the secret has it. A wrong guess costs 1, the right one nothing, so a game's return
lies in [-tries, 0]; out of tries the game is over, which is a rule and no truncation. What is not a word of the list
costs a try like any wrong guess. (LMRL-Gym's rules and rewards, arXiv 2311.18232; the words are ours.)

An answer is "bygbb"; in the style "places" it is "1cb 2ry 3ag 4nb 5eb", the same for each place with its letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import numpy.typing as npt

from qseq.environments.text import words as word_lists
from qseq.environments.text.base import FiniteStarts, TextStep
from qseq.errors import RequestError

LENGTH = 5
FIRST, NOT_A_WORD, WON, LOST = "guess", "no word", "right", "lost"


def marks(guess: str, secret: str) -> str:
    """What a guess is answered with, such as "bygbb"."""
    answer = ["b"] * len(secret)
    left: dict[str, int] = {}
    for place, (letter, true) in enumerate(zip(guess, secret, strict=True)):
        if letter == true:
            answer[place] = "g"
        else:
            left[true] = left.get(true, 0) + 1
    for place, letter in enumerate(guess):
        if answer[place] == "b" and left.get(letter, 0) > 0:
            answer[place] = "y"
            left[letter] -= 1
    return "".join(answer)


class Wordle(FiniteStarts):
    """One list of words; every word of it may be the secret, with equal probability.

    Args:
        words: "small" (64 words), "large" (some hundred), or a list of your own.
        tries: guesses until the game is lost.
        style: of the answers: "marks", or "places", which repeats place and letter beside each mark. For tokens that
            are words it says in a token what marks leave to be put together from three (for small models).

    Raises:
        RequestError: the list is not of distinct words of five letters a-z, or has fewer than two; no such style.
    """

    def __init__(
        self,
        words: str | Sequence[str] = "small",
        *,
        tries: int = 6,
        style: Literal["marks", "places"] = "marks",
    ) -> None:
        if style not in ("marks", "places"):
            raise RequestError(f"wordle: style='{style}', expected 'marks' or 'places'")
        if isinstance(words, str):
            known = {"small": word_lists.SMALL, "large": word_lists.LARGE}
            if words not in known:
                raise RequestError(f"wordle: words='{words}', expected small, large or a list of words")
            words = known[words]
        wrong = [word for word in words if len(word) != LENGTH or not (word.isascii() and word.isalpha())]
        if wrong or len(set(words)) != len(words) or len(words) < 2:
            raise RequestError(
                f"wordle: expected at least two distinct words of {LENGTH} letters, found {wrong[:1] or len(words)}"
            )
        if tries < 1:
            raise RequestError(f"wordle: tries={tries}, expected at least 1")
        self.words = tuple(word.lower() for word in words)
        self.tries, self.style = tries, style
        self.indices = {word: index for index, word in enumerate(self.words)}
        self._secret, self._left, self._won = self.words[0], tries, False

    @property
    def num_starts(self) -> int:
        return len(self.words)

    def reset_to(self, start: int) -> str:
        self._secret, self._left, self._won = self.words[start], self.tries, False
        return FIRST

    def step(self, action: str) -> TextStep:
        guess = "".join(action.split()).lower()
        self._left -= 1
        self._won = guess == self._secret
        if self._won:
            return TextStep(WON, 0.0, True, False)
        if self._left == 0:
            return TextStep(LOST, -1.0, True, False)
        answer = self.describe(guess, marks(guess, self._secret)) if guess in self.indices else NOT_A_WORD
        return TextStep(answer, -1.0, False, False)

    def describe(self, guess: str, answer: str) -> str:
        """What a guess is answered with, in the game's style."""
        if self.style == "marks":
            return answer
        letters = zip(guess, answer, strict=True)
        return " ".join(f"{place}{letter}{mark}" for place, (letter, mark) in enumerate(letters, start=1))

    def success(self) -> bool:
        return self._won

    @cached_property
    def patterns(self) -> npt.NDArray[np.uint8]:
        """[words, words] answers to guess i when the secret is j, as numbers in base 3 (b, y, g)."""
        return _patterns(self.words)

    def optimal_return(self) -> float:
        """By exact search (see `wordle_search`): at once for the small list, some ten seconds for the large one."""
        from qseq.environments.text.wordle_search import best_mean_return

        return best_mean_return(self)

    def vocabulary(self) -> list[str]:
        pairs = ((guess, secret) for guess in self.words for secret in self.words)
        answers = {part for guess, secret in pairs for part in self.describe(guess, marks(guess, secret)).split()}
        texts = f"{FIRST} {NOT_A_WORD} {WON} {LOST}".split()
        return sorted({*texts, *self.words, *answers})


def number(answer: str) -> int:
    """An answer, in either style, as a number in base 3."""
    parts = answer.split()
    total = 0
    for mark in answer if len(parts) == 1 else (part[-1] for part in parts):
        total = 3 * total + "byg".index(mark)
    return total


@lru_cache(maxsize=4)
def _patterns(words: tuple[str, ...]) -> npt.NDArray[np.uint8]:
    table = np.array([[number(marks(guess, secret)) for secret in words] for guess in words], dtype=np.uint8)
    table.flags.writeable = False
    return table
