"""The cells of a maze: which are free, how far apart they are, and where a point lies.

A cell is (row, column); positions are (x, y) in metres, cells are squares with sides of one metre.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

from qseq.errors import RequestError

Cell = tuple[int, int]
Array = npt.NDArray[np.float64]

_NEIGHBOURS = ((0, 1), (1, 0), (0, -1), (-1, 0))


class MazeMap:
    """A maze of square cells around the origin.

    Args:
        rows: one list a row from the top (the largest y) down; 1 is a wall, anything else is free.
    """

    def __init__(self, rows: Sequence[Sequence[object]]) -> None:
        self.walls: npt.NDArray[np.bool_] = np.array([[value == 1 for value in row] for row in rows], dtype=bool)
        self.free: tuple[Cell, ...] = tuple((int(row), int(column)) for row, column in np.argwhere(~self.walls))
        height, width = self.walls.shape
        self._left, self._top = -width / 2.0, height / 2.0
        self._distances = cache(self._search)

    @property
    def diameter(self) -> int:
        """Steps from cell to cell between the two free cells that are farthest apart."""
        return max(max(self.distances(cell).values()) for cell in self.free)

    def distances(self, goal: Cell) -> dict[Cell, int]:
        """Steps to `goal` from every free cell that is connected with it.

        Raises:
            RequestError: the goal is a wall or outside.
        """
        return self._distances(goal)

    def next_cell(self, cell: Cell, goal: Cell) -> Cell:
        """The neighbour of `cell` that is nearest to `goal`; the cell itself if it is the goal."""
        distances = self.distances(goal)
        around = [(cell[0] + down, cell[1] + right) for down, right in _NEIGHBOURS]
        return min([cell, *around], key=lambda candidate: distances.get(candidate, len(self.free)))

    def centre(self, cell: Cell) -> Array:
        """(x, y) of the middle of a cell."""
        return np.array([self._left + cell[1] + 0.5, self._top - cell[0] - 0.5])

    def cell_at(self, position: npt.ArrayLike) -> Cell:
        """The cell in which (x, y) lies."""
        x, y = np.asarray(position, dtype=np.float64)[:2]
        return int(np.floor(self._top - y)), int(np.floor(x - self._left))

    def inside_walls(self, positions: npt.ArrayLike) -> npt.NDArray[np.bool_]:
        """Which positions [..., 2] lie in a wall, or outside the maze: [...]."""
        places = np.asarray(positions, dtype=np.float64)
        rows = np.floor(self._top - places[..., 1]).astype(np.int64)
        columns = np.floor(places[..., 0] - self._left).astype(np.int64)
        height, width = self.walls.shape
        outside = (rows < 0) | (rows >= height) | (columns < 0) | (columns >= width)
        blocked: npt.NDArray[np.bool_] = self.walls[np.clip(rows, 0, height - 1), np.clip(columns, 0, width - 1)]
        found: npt.NDArray[np.bool_] = outside | blocked
        return found

    def _search(self, goal: Cell) -> dict[Cell, int]:
        free = set(self.free)
        if goal not in free:
            raise RequestError(f"cell {goal} is a wall or outside: expected one of the {len(free)} free cells")
        found, waiting = {goal: 0}, deque([goal])
        while waiting:
            cell = waiting.popleft()
            for down, right in _NEIGHBOURS:
                neighbour = (cell[0] + down, cell[1] + right)
                if neighbour in free and neighbour not in found:
                    found[neighbour] = found[cell] + 1
                    waiting.append(neighbour)
        return found
