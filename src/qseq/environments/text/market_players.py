"""Scripted players of the market: by chance, by a rule of thumb, and the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qseq.environments.text.base import Message, TextEnvironment
from qseq.environments.text.market import ACTIONS, Market
from qseq.errors import RequestError


class RandomTrader:
    """Any of the three actions."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, history: Sequence[Message]) -> str:
        return ACTIONS[int(self._rng.integers(len(ACTIONS)))]


class ThumbTrader:
    """Buys below a price that it takes for the middle, and sells above it.

    Args:
        environment: the market.
        rng: source of all randomness; the price is drawn from it, once a game.
        noise: share of the days on which it does anything.
    """

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator, *, noise: float = 0.3) -> None:
        self._market, self._rng, self._noise = _market(environment), rng, noise
        self._middle = float(rng.uniform(2.0, 8.0))

    def act(self, history: Sequence[Message]) -> str:
        market = self._market
        if self._rng.uniform() < self._noise:
            return ACTIONS[int(self._rng.integers(len(ACTIONS)))]
        if market.prices[market.season][market.day] < self._middle:
            return "buy" if market.stock < market.room else "wait"
        return "sell" if market.stock > 0 else "wait"


class BestTrader:
    """The exact optimum: it knows the prices to come."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._market = _market(environment)

    def act(self, history: Sequence[Message]) -> str:
        return self._market.best(self._market.season, self._market.day, self._market.stock)[1]


def _market(environment: TextEnvironment) -> Market:
    if not isinstance(environment, Market):
        raise RequestError(f"this player trades in a market, found {type(environment).__name__}")
    return environment
