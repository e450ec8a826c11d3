"""Scripted players of the toll road: by chance, short-sighted, and the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qseq.environments.text.base import Message, TextEnvironment
from qseq.environments.text.toll_road import TollRoad
from qseq.errors import RequestError


class RandomDriver:
    """Stays in its lane or takes any, by chance.

    Args:
        environment: the road.
        rng: source of all randomness.
        stay: probability of staying without drawing a lane.
    """

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator, *, stay: float = 0.3) -> None:
        self._road, self._rng, self._stay = _road(environment), rng, stay

    def act(self, history: Sequence[Message]) -> str:
        lane, answer = history[-1]["content"], ""
        for _ in range(self._road.length):
            if self._rng.uniform() >= self._stay:
                lane = self._road.lanes[int(self._rng.integers(len(self._road.lanes)))]
            answer += lane
        return answer


class ThriftyDriver:
    """Takes whatever costs least now, so the cheap gate, whatever the prizes.

    Args:
        environment: the road.
        rng: source of all randomness.
        noise: share of the letters that are drawn from all lanes instead.
    """

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator, *, noise: float = 0.1) -> None:
        self._road, self._rng, self._noise = _road(environment), rng, noise

    def act(self, history: Sequence[Message]) -> str:
        road, answer = self._road, ""
        start = road.lanes.index(history[-1]["content"])
        for _ in range(road.length):
            if self._rng.uniform() < self._noise:
                answer += road.lanes[int(self._rng.integers(len(road.lanes)))]
            else:
                answer += max(road.lanes, key=lambda lane: road.rewards(start, answer + lane)[-1])
        return answer


class BestDriver:
    """The exact optimum."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._road = _road(environment)

    def act(self, history: Sequence[Message]) -> str:
        return self._road.best_drive(self._road.lanes.index(history[-1]["content"]))


def _road(environment: TextEnvironment) -> TollRoad:
    if not isinstance(environment, TollRoad):
        raise RequestError(f"this player drives on a toll road, found {type(environment).__name__}")
    return environment
