"""Scripted players of the maze: from one that moves at random to the best one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qseq.environments.text.base import Message, TextEnvironment
from qseq.environments.text.maze import MOVES, Cell, Maze
from qseq.environments.text.maze_beliefs import split
from qseq.errors import RequestError


class RandomMover:
    """Each move is drawn from the four."""

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._rng = rng

    def act(self, history: Sequence[Message]) -> str:
        return list(MOVES)[int(self._rng.integers(len(MOVES)))]


class MisledWalker:
    """Walks the shortest way to a cell it takes for the goal, and there finds another; never means the goal.

    Its ways are good ways to the wrong places: parts of them lie on ways to the goal, which it hardly ever reaches.

    Args:
        environment: the maze; it looks at the true position.
        rng: source of all randomness.
        noise: share of the moves that are drawn from the four instead.
    """

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator, *, noise: float = 0.1) -> None:
        self._maze, self._rng, self._noise = _maze(environment), rng, noise
        self._aim = self._maze.position

    def act(self, history: Sequence[Message]) -> str:
        while self._aim in (self._maze.position, self._maze.goal):
            self._aim = self._maze.starts[int(self._rng.integers(len(self._maze.starts)))]
        if self._rng.uniform() < self._noise:
            return list(MOVES)[int(self._rng.integers(len(MOVES)))]
        return _towards(self._maze, self._aim)


class Walker:
    """Walks the shortest way to the goal, which it sees even where the player of the texts does not.

    Args:
        environment: the maze.
        rng: source of all randomness.
        noise: share of the moves that are drawn from the four instead.
    """

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator, *, noise: float = 0.0) -> None:
        self._maze, self._rng, self._noise = _maze(environment), rng, noise

    def act(self, history: Sequence[Message]) -> str:
        if self._rng.uniform() < self._noise:
            return list(MOVES)[int(self._rng.integers(len(MOVES)))]
        return _towards(self._maze, self._maze.goal)


class BeliefWalker:
    """The best player who sees walls only: it knows the maze and keeps a list of where it may be.

    Acts on the texts alone, so it may play the fully observed maze as well.
    """

    def __init__(self, environment: TextEnvironment, rng: np.random.Generator) -> None:
        self._maze = _maze(environment)

    def act(self, history: Sequence[Message]) -> str:
        cells: Sequence[Cell] = self._maze.starts
        for message in history:
            if message["role"] == "user":
                cells = [cell for cell in cells if self._maze.describe(cell) == message["content"]]
            else:
                cells = [self._maze.after(cell, message["content"]) for cell in cells]
        (belief,) = split(self._maze, cells).values()
        return self._maze.belief_plan.best[belief]


def _maze(environment: TextEnvironment) -> Maze:
    if not isinstance(environment, Maze):
        raise RequestError(f"this player walks in a maze, found {type(environment).__name__}")
    return environment


def _towards(maze: Maze, aim: Cell) -> str:
    distances = maze.distances_to(aim)
    return min(MOVES, key=lambda move: distances[maze.after(maze.position, move)])
