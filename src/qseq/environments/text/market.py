"""A market: several turns, a reward a turn, most of the good ones paid for by bad ones before.

Each day the text tells the season, the day, the stock and the price; the answer is "buy", "sell" or "wait". Buying
costs the price of the day, selling earns it, anything impossible or not understood costs `REFUSED`. After the last day
the market closes and what is left in stock is worth nothing. Prices are a function of season and day, drawn from a seed
and told only as they come; a game starts in each of the seasons with equal probability.
"""

from __future__ import annotations

import numpy as np

from qseq.environments.text.base import FiniteStarts, TextStep
from qseq.errors import RequestError

ACTIONS = ("buy", "sell", "wait")
REFUSED = -5.0
CLOSED = "closed"


class Market(FiniteStarts):
    """One table of prices.

    Args:
        price_seed: of the prices, whole numbers from 1 to 9.
        seasons: how many starts there are.
        days: turns of a game.
        room: the greatest stock.

    Raises:
        RequestError: an argument is below 1.
    """

    def __init__(self, price_seed: int = 1, *, seasons: int = 3, days: int = 6, room: int = 2) -> None:
        if min(seasons, days, room) < 1:
            raise RequestError(f"market: seasons={seasons}, days={days}, room={room}: expected at least 1 of each")
        self.seasons, self.days, self.room = seasons, days, room
        self.prices = [
            [int(p) for p in row] for row in np.random.default_rng(price_seed).integers(1, 10, (seasons, days))
        ]
        self._known: dict[tuple[int, int, int], tuple[float, str]] = {}
        self.season = self.day = self.stock = 0
        self._total = 0.0

    @property
    def num_starts(self) -> int:
        return self.seasons

    def reset_to(self, start: int) -> str:
        self.season, self.day, self.stock, self._total = start, 0, 0, 0.0
        return self.describe()

    def step(self, action: str) -> TextStep:
        reward, self.stock = self.outcome(self.season, self.day, self.stock, " ".join(action.split()))
        self._total += reward
        self.day += 1
        closed = self.day == self.days
        return TextStep(CLOSED if closed else self.describe(), reward, closed, False)

    def success(self) -> bool:
        return self._total >= self.best(self.season, 0, 0)[0]

    def outcome(self, season: int, day: int, stock: int, action: str) -> tuple[float, int]:
        """(reward, stock after it) of an action."""
        price = float(self.prices[season][day])
        if action == "buy" and stock < self.room:
            return -price, stock + 1
        if action == "sell" and stock > 0:
            return price, stock - 1
        return (0.0 if action == "wait" else REFUSED), stock

    def best(self, season: int, day: int, stock: int) -> tuple[float, str]:
        """(return of the best play from here on, its action), by dynamic programming."""
        if day == self.days:
            return 0.0, "wait"
        key = (season, day, stock)
        if key not in self._known:
            found = []
            for action in ACTIONS:
                reward, after = self.outcome(season, day, stock, action)
                found.append((reward + self.best(season, day + 1, after)[0], action))
            self._known[key] = max(found)
        return self._known[key]

    def optimal_return(self) -> float:
        return float(np.mean([self.best(season, 0, 0)[0] for season in range(self.seasons)]))

    def describe(self) -> str:
        """What is seen now."""
        price = self.prices[self.season][self.day]
        return f"season {self.season} day {self.day} stock {self.stock} price {price}"

    def vocabulary(self) -> list[str]:
        numbers = {str(n) for n in range(max(10, self.seasons, self.days, self.room + 1))}
        return sorted({*ACTIONS, "season", "day", "stock", "price", CLOSED, *numbers})
