"""Scripted players of the random walks: by chance, and the best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qseq.environments.text.base import Message, TextEnvironment
from qseq.environments.text.random_walks import GOAL, LETTERS, RandomWalks
from qseq.errors import RequestError


class RandomWalker:
    """Takes random edges until the goal or the length limit."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._graph, self._rng = _graph(environment), rng

    def act(self, history: Sequence[Message]) -> str:
        walk = [LETTERS.index(history[-1]["content"])]
        while walk[-1] != GOAL and len(walk) < self._graph.longest:
            targets = self._graph.edges[walk[-1]]
            walk.append(targets[int(self._rng.integers(len(targets)))])
        return "".join(LETTERS[node] for node in walk[1:])


class ShortestWalker:
    """Takes a shortest path."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._graph = _graph(environment)

    def act(self, history: Sequence[Message]) -> str:
        walk = [LETTERS.index(history[-1]["content"])]
        lengths = self._graph.shortest
        while walk[-1] != GOAL:
            walk.append(min(self._graph.edges[walk[-1]], key=lambda node: lengths.get(node, len(LETTERS) + 1)))
        return "".join(LETTERS[node] for node in walk[1:])


def _graph(environment: TextEnvironment) -> RandomWalks:
    if not isinstance(environment, RandomWalks):
        raise RequestError(f"this player walks on a graph, found {type(environment).__name__}")
    return environment
