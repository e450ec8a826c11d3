"""The best possible play of Wordle by exact search, for lists of up to some hundred words.

`cost(secrets, tries)` is the least number of wrong guesses, summed over the secrets that are still possible. A guess
splits them by its answers; of n secrets that cannot be told apart at most one is hit by the next guess and every other
costs at least one more wrong guess, so n - 1 bounds the cost of a part from below and guesses are tried in the order
of these bounds until no bound is below the best cost found (branch and bound).
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from qseq.environments.text.wordle import Wordle

Secrets = tuple[int, ...]
"""Numbers of the words that are still possible, increasing."""


class WordleSearch:
    """Exact costs and best guesses for one list of words; what was found is kept."""

    def __init__(self, words: tuple[str, ...]) -> None:
        self._patterns = Wordle(words).patterns.astype(np.int64)
        self._known: dict[tuple[Secrets, int], tuple[int, int]] = {}

    def cost(self, secrets: Secrets, tries: int) -> int:
        """Wrong guesses under the best play, summed over the secrets."""
        return self.best(secrets, tries)[0]

    def best(self, secrets: Secrets, tries: int) -> tuple[int, int]:
        """(cost, number of the best first guess)."""
        count = len(secrets)
        if tries == 0 or count == 0:
            return 0, 0
        if count == 1 or tries == 1:
            return count - 1, secrets[0]
        key = (secrets, tries)
        if key not in self._known:
            self._known[key] = self._search(secrets, tries)
        return self._known[key]

    def _search(self, secrets: Secrets, tries: int) -> tuple[int, int]:
        count = len(secrets)
        answers = self._patterns[:, list(secrets)]
        hits = np.zeros(len(answers), dtype=np.int64)
        hits[list(secrets)] = 1
        parts = np.array([np.count_nonzero(np.bincount(row)) for row in answers]) - hits
        # Every secret but the one hit costs this guess; each part costs at least all but one of its own.
        bounds = (count - hits) + (count - hits - parts)
        best, choice = 2 * count * tries, -1
        for guess in np.argsort(bounds, kind="stable"):
            if bounds[guess] >= best:
                break
            cost = count - int(hits[guess])
            remaining = int(bounds[guess]) - cost
            for part, part_bound in self._split(secrets, int(guess)):
                remaining -= part_bound
                cost += self.cost(part, tries - 1)
                if cost + remaining >= best:
                    break
            else:
                best, choice = cost, int(guess)
        return best, choice

    def _split(self, secrets: Secrets, guess: int) -> list[tuple[Secrets, int]]:
        """The parts that a guess leaves, the largest first, each with its bound; a hit leaves none."""
        parts: dict[int, list[int]] = {}
        for secret in secrets:
            if secret != guess:
                parts.setdefault(int(self._patterns[guess, secret]), []).append(secret)
        return [(tuple(part), len(part) - 1) for part in sorted(parts.values(), key=len, reverse=True)]


@lru_cache(maxsize=4)
def search_of(words: tuple[str, ...]) -> WordleSearch:
    """The search of a list, shared by those who play with it."""
    return WordleSearch(words)


def best_mean_return(environment: Wordle) -> float:
    """Mean return of the best possible play."""
    words = environment.words
    return -search_of(words).cost(tuple(range(len(words))), environment.tries) / len(words)
