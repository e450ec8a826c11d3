"""The best possible play of the partially observed maze, exactly.

Moves and walls are certain; only the start is not. A belief is therefore the list of cells where a game that began at
one of the starts, and has seen what has been seen, may be now. There are few of them (44 in the double-T maze), and
value iteration over them gives the exact optimum of the partially observed problem (Kaelbling et al. 1998, section 3).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from qseq.environments.text.maze import MOVES, Cell, Maze

Belief = tuple[Cell, ...]
"""Where one is if the start was this or that one: sorted, one entry a start (two of them may have met)."""


@dataclass(frozen=True)
class BeliefPlan:
    """The solution: `best` gives the move for each belief, `mean_return` what it brings over all starts."""

    best: dict[Belief, str]
    mean_return: float


def split(maze: Maze, cells: Iterable[Cell]) -> dict[tuple[str, ...], Belief]:
    """The beliefs that `cells` fall into once the walls are seen; those at the goal have ended."""
    groups: dict[tuple[str, ...], list[Cell]] = defaultdict(list)
    for cell in cells:
        if cell != maze.goal:
            groups[maze.walls(cell)].append(cell)
    return {walls: tuple(sorted(group)) for walls, group in groups.items()}


def solve_beliefs(maze: Maze) -> BeliefPlan:
    """Value iteration until nothing changes; rewards are summed over the starts of a belief."""
    first = list(split(maze, maze.starts).values())
    successors: dict[Belief, dict[str, tuple[float, list[Belief]]]] = {}
    waiting = list(first)
    while waiting:
        belief = waiting.pop()
        if belief in successors:
            continue
        successors[belief] = {}
        for move in MOVES:
            there = [maze.after(cell, move) for cell in belief]
            after = list(split(maze, there).values())
            cost = -float(sum(cell != maze.goal for cell in there))
            successors[belief][move] = (cost, after)
            waiting.extend(after)
    values = dict.fromkeys(successors, 0.0)
    changed = True
    while changed:
        # From 0, an upper bound, values only fall; they are whole numbers and bounded, so this ends.
        renewed = {
            belief: max(cost + sum(values[next_] for next_ in after) for cost, after in moves.values())
            for belief, moves in successors.items()
        }
        changed, values = renewed != values, renewed
    best = {
        belief: max(moves, key=lambda move: moves[move][0] + sum(values[next_] for next_ in moves[move][1]))
        for belief, moves in successors.items()
    }
    return BeliefPlan(best, sum(values[belief] for belief in first) / len(maze.starts))
