"""Shortest paths from random walks: the classic example of the Decision Transformer (Chen et al. 2021, section 1).

A directed graph of a few nodes, each named by a letter; "a" is the goal and has no way out. The prompt is a node, the
answer the nodes of a walk from there. Data are walks along random edges, which reach the goal seldom and on detours;
the shortest paths are to be put together from pieces of them.

`optimality` is that of trlx's example (CarperAI/trlx, examples/randomwalks), with lengths counted in nodes:
(longest - length) / (longest - shortest), from 1 for a shortest path down to 0 for one that is as long as a walk may
be, that does not reach the goal, or that takes an edge that is not there.

Seeds differ much: with some the goal cannot be reached from everywhere, with others chance finds the shortest paths.
`random_walk_seeds.examine_graph_seed` says what a seed holds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal

import numpy as np

from qseq.environments.text.base import FiniteStarts, TextStep
from qseq.errors import RequestError

LETTERS = "abcdefghijklmnopqrstuvwxyz"
GOAL = 0
HONEST_GRAPHS = (7, 86, 93, 103, 36)
"""Seeds of which the goal can be reached from everywhere, and random walks seldom do (`examine_graph_seed`)."""


class RandomWalks(FiniteStarts):
    """One graph; walks start at every node but the goal with equal probability.

    Args:
        graph_seed: of the edges.
        nodes: how many, at most 26.
        edge_probability: of an edge from one node to another; each node but the goal has at least one way out.
        longest: nodes of a walk, its first included.
        reward: "optimality" at the end; or "steps": each node of the answer costs 1, the goal nothing (a reward a
            token, where each letter is one), and a walk that was cut off is truncated.

    Raises:
        RequestError: an argument is not valid, or the goal cannot be reached in time from some node.
    """

    single_turn = True

    def __init__(
        self,
        graph_seed: int = HONEST_GRAPHS[0],
        *,
        nodes: int = 21,
        edge_probability: float = 0.1,
        longest: int = 10,
        reward: Literal["optimality", "steps"] = "optimality",
        check: bool = True,
    ) -> None:
        if not 2 <= nodes <= len(LETTERS) or not 0.0 < edge_probability < 1.0 or longest < 3:
            raise RequestError(
                f"random walks: nodes={nodes}, edge_probability={edge_probability}, longest={longest}: expected 2 to "
                f"{len(LETTERS)} nodes, a probability between 0 and 1 and walks of at least 3 nodes"
            )
        if reward not in ("optimality", "steps"):
            raise RequestError(f"random walks: reward='{reward}', expected optimality or steps")
        self.nodes, self.longest, self.reward = nodes, longest, reward
        self.edges = draw_edges(graph_seed, nodes, edge_probability)
        self.shortest = shortest_lengths(self.edges)
        late = [node for node in range(1, nodes) if self.shortest.get(node, longest) >= longest]
        if late and check:
            raise RequestError(
                f"random walks: graph_seed={graph_seed}: the goal cannot be reached from {LETTERS[late[0]]} by a walk "
                f"of fewer than {longest} nodes; examine_graph_seed says which seeds are sound"
            )
        self.node = 1
        self._reached = False
        self._rewards: list[float] = []

    @property
    def num_starts(self) -> int:
        return self.nodes - 1

    def reset_to(self, start: int) -> str:
        self.node, self._reached, self._rewards = start + 1, False, []
        return LETTERS[self.node]

    def step(self, action: str) -> TextStep:
        walk, valid = self._follow("".join(action.split()))
        self._reached = valid and walk[-1] == GOAL
        self._rewards = [0.0 if node == GOAL else -1.0 for node in walk[1:]]
        if not valid:
            # The walk is lost: it costs as much as the longest one.
            self._rewards = [-float(self.longest - 1)]
        if self.reward == "optimality":
            return TextStep("", self.optimality(walk) if valid else 0.0, True, False)
        cut_off = valid and not self._reached
        return TextStep("", float(sum(self._rewards)), not cut_off, cut_off)

    def success(self) -> bool:
        return self._reached

    def token_rewards(self) -> list[float] | None:
        return list(self._rewards) if self.reward == "steps" else None

    def optimality(self, walk: Sequence[int]) -> float:
        """Of a walk along edges, its first node included."""
        if walk[-1] != GOAL or len(walk) > self.longest:
            return 0.0
        return (self.longest - len(walk)) / (self.longest - self.shortest[walk[0]])

    def optimal_return(self) -> float:
        if self.reward == "optimality":
            return 1.0
        return -float(np.mean([self.shortest[node] - 2 for node in range(1, self.nodes)]))

    def vocabulary(self) -> list[str]:
        return list(LETTERS[: self.nodes])

    def _follow(self, letters: str) -> tuple[list[int], bool]:
        """The nodes walked up to the goal or the length limit, and whether all edges on the way are there."""
        walk = [self.node]
        for letter in letters:
            node = LETTERS.find(letter)
            if node not in self.edges[walk[-1]]:
                return walk, False
            walk.append(node)
            if node == GOAL or len(walk) == self.longest:
                break
        # A walk that stops by itself short of the goal is lost as well.
        return walk, walk[-1] == GOAL or len(walk) == self.longest


def draw_edges(seed: int, nodes: int, probability: float) -> list[tuple[int, ...]]:
    """The nodes that edges lead to, from each node; drawn anew until each node but the goal has one."""
    rng = np.random.default_rng(seed)
    while True:
        there = rng.uniform(size=(nodes, nodes)) < probability
        np.fill_diagonal(there, False)
        there[GOAL] = False
        if there[1:].any(axis=1).all():
            return [tuple(int(node) for node in np.flatnonzero(row)) for row in there]


def shortest_lengths(edges: Sequence[Sequence[int]]) -> dict[int, int]:
    """Nodes of the shortest walk to the goal, from each node that has one."""
    sources: list[list[int]] = [[] for _ in edges]
    for node, targets in enumerate(edges):
        for target in targets:
            sources[target].append(node)
    lengths = {GOAL: 1}
    waiting = deque([GOAL])
    while waiting:
        node = waiting.popleft()
        for source in sources[node]:
            if source not in lengths:
                lengths[source] = lengths[node] + 1
                waiting.append(source)
    return lengths
