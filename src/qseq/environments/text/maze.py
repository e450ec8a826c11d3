"""A maze in text, after LMRL-Gym's (Abdulhai et al., arXiv 2311.18232, section 4.1): its rules, our own code.

Moves are "move up", "move down", "move left" and "move right"; moving into a wall leaves you where you are. Every
move costs 1, the one that reaches the goal nothing; what is not a move costs 4. After `horizon` moves the game is cut
off. Games start in every free cell but the goal with equal probability.

Fully observed, the text gives the goal, the position and the walls around; partially observed only the walls, so that
where you are must be told from the moves and walls so far.
"""

from __future__ import annotations

from collections import deque
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from qseq.environments.text.base import FiniteStarts, TextStep
from qseq.errors import RequestError

if TYPE_CHECKING:
    from qseq.environments.text.maze_beliefs import BeliefPlan

Cell = tuple[int, int]
"""Row and column, from the top left."""

MOVES: dict[str, Cell] = {"move up": (-1, 0), "move down": (1, 0), "move left": (0, -1), "move right": (0, 1)}
SIDES = ("above", "below", "left", "right")
"""Where a wall may be, in the order of `MOVES`."""
DOUBLE_T = """
#############
#.....#.....#
###.#####.###
###.#####.###
###.#####.###
###.......###
######.######
######.######
######G######
#############
"""
"""Two T-shaped mazes joined at their feet: LMRL-Gym's maze ('#' wall, '.' free, 'G' goal)."""
WIN, MOVE, NONSENSE = 0.0, -1.0, -4.0
WON, LOST = "Success", "Failure"


class Maze(FiniteStarts):
    """One maze with one goal.

    Args:
        observed: "fully" or "partially".
        layout: lines of '#', '.' and one 'G'; its border must be walls, and every cell must reach the goal.
        horizon: moves before the game is cut off.
        style: "sentences" (LMRL-Gym's kind of text) or "short" (few tokens, for small models).

    Raises:
        RequestError: the layout or an argument is not valid.
    """

    def __init__(
        self,
        observed: Literal["fully", "partially"] = "fully",
        *,
        layout: str = DOUBLE_T,
        horizon: int = 100,
        style: Literal["sentences", "short"] = "sentences",
    ) -> None:
        if observed not in ("fully", "partially"):
            raise RequestError(f"maze: observed='{observed}', expected 'fully' or 'partially'")
        if style not in ("sentences", "short"):
            raise RequestError(f"maze: style='{style}', expected 'sentences' or 'short'")
        if horizon < 1:
            raise RequestError(f"maze: horizon={horizon}, expected at least 1")
        self.observed, self.style, self.horizon = observed, style, horizon
        self._free, self.goal = _read(layout)
        self.starts = sorted(self._free - {self.goal})
        self._distances: dict[Cell, dict[Cell, int]] = {}
        unreachable = set(self.starts) - self.distances_to(self.goal).keys()
        if unreachable:
            raise RequestError(f"maze: the goal cannot be reached from {sorted(unreachable)[0]}")
        self.position = self.starts[0]
        self._steps = 0

    @property
    def num_starts(self) -> int:
        return len(self.starts)

    def reset_to(self, start: int) -> str:
        self.position = self.starts[start]
        self._steps = 0
        return self.describe(self.position)

    def step(self, action: str) -> TextStep:
        move = " ".join(action.split())
        self._steps += 1
        if move in MOVES:
            self.position = self.after(self.position, move)
        if self.success():
            return TextStep(WON, WIN, True, False)
        reward = MOVE if move in MOVES else NONSENSE
        # The words at the cut are those of any other step: more would have followed.
        return TextStep(self.describe(self.position), reward, False, self._steps >= self.horizon)

    def success(self) -> bool:
        return self.position == self.goal

    def after(self, cell: Cell, move: str) -> Cell:
        """The cell that a move leads to."""
        row, column = MOVES[move]
        there = (cell[0] + row, cell[1] + column)
        return there if there in self._free else cell

    def walls(self, cell: Cell) -> tuple[str, ...]:
        """The sides of a cell where walls are."""
        return tuple(side for side, move in zip(SIDES, MOVES, strict=True) if self.after(cell, move) == cell)

    def distances_to(self, aim: Cell) -> dict[Cell, int]:
        """Moves from each cell to `aim` by the shortest way."""
        if aim not in self._distances:
            found = {aim: 0}
            waiting = deque([aim])
            while waiting:
                cell = waiting.popleft()
                for move in MOVES:
                    there = self.after(cell, move)  # moves can be undone, so distances from `aim` are those to it
                    if there not in found:
                        found[there] = found[cell] + 1
                        waiting.append(there)
            self._distances[aim] = found
        return self._distances[aim]

    @cached_property
    def belief_plan(self) -> BeliefPlan:
        """The best possible play for one who sees the walls only."""
        from qseq.environments.text.maze_beliefs import solve_beliefs

        return solve_beliefs(self)

    def optimal_return(self) -> float:
        """Fully observed by shortest paths, partially by dynamic programming over beliefs (see `maze_beliefs`).

        The horizon is taken to be longer than the best game.
        """
        if self.observed == "partially":
            return self.belief_plan.mean_return
        # The last move costs nothing.
        return -sum(self.distances_to(self.goal)[cell] - 1 for cell in self.starts) / len(self.starts)

    def describe(self, cell: Cell) -> str:
        """What is seen in a cell."""
        walls = self.walls(cell)
        if self.style == "short":
            seen = f"walls {' '.join(walls)}" if walls else "walls none"
            return f"at {_pair(cell)} goal {_pair(self.goal)} {seen}" if self.observed == "fully" else seen
        seen = _sentence(walls)
        if self.observed == "partially":
            return seen
        return (
            f"The goal is at position {self.goal[0]}, {self.goal[1]}. "
            f"Your current position is at position {cell[0]}, {cell[1]}. {seen}"
        )

    def vocabulary(self) -> list[str]:
        texts = [*(self.describe(cell) for cell in self.starts), *MOVES, WON]
        return sorted({word for text in texts for word in text.split()})


def _pair(cell: Cell) -> str:
    return f"{cell[0]},{cell[1]}"


def _sentence(walls: tuple[str, ...]) -> str:
    names = {"above": "above you", "below": "below you", "left": "to your left", "right": "to your right"}
    if not walls:
        return "There are no walls near you."
    if len(walls) == 1:
        return f"There is a wall {names[walls[0]]}."
    return f"There are walls {', '.join(names[wall] for wall in walls)}."


def _read(layout: str) -> tuple[set[Cell], Cell]:
    rows = [line.strip() for line in layout.strip().splitlines()]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise RequestError("maze: the layout's lines must be of one length")
    wrong = set("".join(rows)) - set("#.G")
    if wrong:
        raise RequestError(f"maze: the layout has '{sorted(wrong)[0]}', expected '#', '.' and one 'G'")
    cells = {(r, c): mark for r, row in enumerate(rows) for c, mark in enumerate(row) if mark != "#"}
    goals = [cell for cell, mark in cells.items() if mark == "G"]
    if len(goals) != 1 or len(cells) < 2:
        raise RequestError(f"maze: the layout has {len(goals)} goals and {len(cells)} free cells, expected one 'G'")
    if any(r in (0, len(rows) - 1) or c in (0, len(rows[0]) - 1) for r, c in cells):
        raise RequestError("maze: the layout's border must be walls ('#')")
    return set(cells), goals[0]
