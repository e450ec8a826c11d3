"""What a seed of the random walks holds: whether its graph can be solved, and how much of the solution data show."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from qseq.environments.text.random_walk_players import RandomWalker
from qseq.environments.text.random_walks import GOAL, LETTERS, RandomWalks

HONEST_SUCCESS, HONEST_OPTIMAL = 0.15, 0.1


@dataclass(frozen=True)
class GraphReport:
    """What a seed of the graph holds.

    Attributes:
        graph_seed: the seed.
        reachable: whether the goal can be reached in time from every node.
        longest_shortest: nodes of the longest of the shortest paths; 0 where not reachable.
        success_rate: share of random walks that reach the goal.
        optimal_share: share of random walks that are shortest paths already.
        mean_optimality: of random walks; nodes that cannot reach the goal count as 0.
        starts_shown: share of starts of which the data hold a shortest path.
    """

    graph_seed: int
    reachable: bool
    longest_shortest: int
    success_rate: float
    optimal_share: float
    mean_optimality: float
    starts_shown: float

    @property
    def honest(self) -> bool:
        """Whether the task can be solved and its data do not give the solution away."""
        return self.reachable and self.success_rate <= HONEST_SUCCESS and self.optimal_share <= HONEST_OPTIMAL

    def to_json(self) -> dict[str, float | bool]:
        """Plain data."""
        return {**asdict(self), "honest": self.honest}


def examine_graph_seed(
    graph_seed: int, *, walks: int = 1000, nodes: int = 21, edge_probability: float = 0.1, longest: int = 10
) -> GraphReport:
    """Draw the graph and random walks on it, and say whether the seed is an honest one."""
    graph = RandomWalks(graph_seed, nodes=nodes, edge_probability=edge_probability, longest=longest, check=False)
    rng = np.random.default_rng([graph_seed, 1])
    walker = RandomWalker(graph, rng)
    optimalities, successes, shown = [], [], set()
    for _ in range(walks):
        start = int(rng.integers(graph.num_starts))
        answer = walker.act([{"role": "user", "content": graph.reset_to(start)}])
        walk = [start + 1, *(LETTERS.index(letter) for letter in answer)]
        successes.append(walk[-1] == GOAL)
        shortest = walk[-1] == GOAL and len(walk) == graph.shortest[walk[0]]
        # A shortest path of full length has optimality 0 / 0; it makes the seed unreachable anyway.
        optimalities.append(1.0 if shortest else graph.optimality(walk))
        if shortest:
            shown.add(start)
    lengths = [graph.shortest.get(node, longest) for node in range(1, nodes)]
    reachable = max(lengths) < longest
    return GraphReport(
        graph_seed=graph_seed,
        reachable=reachable,
        longest_shortest=max(lengths) if reachable else 0,
        success_rate=float(np.mean(successes)),
        optimal_share=float(np.mean([value == 1.0 for value in optimalities])),
        mean_optimality=float(np.mean(optimalities)),
        starts_shown=len(shown) / graph.num_starts,
    )


def honest_graph_seeds(count: int, *, first: int = 0) -> list[GraphReport]:
    """The first `count` honest seeds from `first` on, for graphs of the default size."""
    found: list[GraphReport] = []
    seed = first
    while len(found) < count:
        report = examine_graph_seed(seed)
        if report.honest:
            found.append(report)
        seed += 1
    return found
