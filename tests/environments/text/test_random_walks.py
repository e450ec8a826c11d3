from __future__ import annotations

from itertools import pairwise, product

import numpy as np
import pytest

from qseq.environments.text import make_text_environment
from qseq.environments.text.random_walk_seeds import examine_graph_seed, honest_graph_seeds
from qseq.environments.text.random_walks import HONEST_GRAPHS, LETTERS, RandomWalks, shortest_lengths
from qseq.errors import RequestError
from qseq.evaluation.text import evaluate_text
from qseq.evaluation.text_actors import scripted
from qseq.evaluation.text_data import generate_rows, return_of, summarise_rows

PLAYERS = "scripted:qseq.environments.text.random_walk_players"


def small_graph() -> RandomWalks:
    """d -> c -> b -> a, and a shortcut d -> b; c -> d leads back."""
    graph = RandomWalks(0, nodes=4, longest=6, edge_probability=0.5, check=False)
    graph.edges = [(), (0,), (1, 3), (1, 2)]
    graph.shortest = shortest_lengths(graph.edges)
    return graph


def test_optimality_worked_by_hand() -> None:
    graph = small_graph()
    assert graph.shortest == {0: 1, 1: 2, 2: 3, 3: 3}
    expected = {
        "ba": 1.0,  # d b a: 3 nodes, the shortest
        "cba": 2 / 3,  # d c b a: 4 nodes of at most 6: (6 - 4) / (6 - 3)
        "cdcba": 0.0,  # 6 nodes: as long as a walk may be
        "cdba": 1 / 3,
        "a": 0.0,  # no such edge
        "cb": 0.0,  # stops short of the goal
        "": 0.0,
        "b!": 0.0,
        "baaa": 1.0,  # after the goal nothing counts
        "b a": 1.0,
    }
    for answer, optimality in expected.items():
        assert graph.reset_to(2) == "d"
        step = graph.step(answer)
        assert step.reward == pytest.approx(optimality), answer
        assert step[2:] == (True, False)
        assert graph.success() == (answer in ("ba", "cba", "cdcba", "cdba", "baaa", "b a"))


def test_a_reward_a_token() -> None:
    graph = RandomWalks(reward="steps")
    rows = list(generate_rows("text:random-walks", {"reward": "steps"}, games=200))
    for row in rows:
        assert len(row["rewards"]) == len(row["completion"])
        assert row["truncated"] == (not row["completion"].endswith("a"))
        assert row["rewards"] == [0.0 if letter == "a" else -1.0 for letter in row["completion"]]
    best = evaluate_text(
        scripted(f"{PLAYERS}:ShortestWalker"), "text:random-walks", {"reward": "steps"}, episodes=20, every_start=True
    )
    assert best.mean_return == pytest.approx(graph.optimal_return())
    graph.reset_to(0)
    assert graph.step("!").reward == -9.0  # as much as the longest walk


@pytest.mark.parametrize("seed", HONEST_GRAPHS)
def test_shortest_lengths_by_powers_of_the_adjacency_matrix(seed: int) -> None:
    graph = RandomWalks(seed)
    there = np.zeros((graph.nodes, graph.nodes), dtype=bool)
    for node, targets in enumerate(graph.edges):
        there[node, list(targets)] = True
    for node in range(1, graph.nodes):
        reached, steps = np.eye(graph.nodes, dtype=bool)[node], 0
        while not reached[0]:
            reached, steps = reached @ there, steps + 1
        assert graph.shortest[node] == steps + 1


@pytest.mark.parametrize("seed", HONEST_GRAPHS)
def test_honest_graphs(seed: int) -> None:
    report = examine_graph_seed(seed)
    assert report.honest
    assert report.success_rate <= 0.15
    assert report.optimal_share <= 0.1
    assert report.starts_shown < 1.0  # of some starts no data show the shortest path: it must be put together
    best = evaluate_text(
        scripted(f"{PLAYERS}:ShortestWalker"), "text:random-walks", {"graph_seed": seed}, episodes=20, every_start=True
    )
    assert best.mean_return == 1.0
    statistics = summarise_rows(generate_rows("text:random-walks", {"graph_seed": seed}, games=1000))
    assert statistics.success_rate is not None
    assert 0.05 < statistics.success_rate <= 0.2


def test_seeds_that_are_not_honest_are_told() -> None:
    reports = [examine_graph_seed(seed, walks=300) for seed in range(15)]
    assert any(not report.reachable for report in reports)
    assert any(report.optimal_share > 0.25 for report in reports if report.reachable)  # half solved by chance
    for report in reports:
        if not report.reachable:
            with pytest.raises(RequestError, match="cannot be reached from"):
                RandomWalks(report.graph_seed)
            assert not report.honest
    assert [report.graph_seed for report in honest_graph_seeds(1)] == [
        next(seed for seed in range(100) if examine_graph_seed(seed).honest)
    ]


def test_every_shortest_path_can_be_put_together_from_the_data() -> None:
    seen = set()
    for row in generate_rows("text:random-walks", games=1000):
        walk = row["prompt"] + row["completion"]
        seen |= set(pairwise(walk))
        assert row["terminated"]
        assert return_of(row) == row["reward"]
    graph = RandomWalks()
    assert seen == {(LETTERS[a], LETTERS[b]) for a, b in product(range(21), repeat=2) if b in graph.edges[a]}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"nodes": 27}, "2 to 26"), ({"longest": 2}, "at least 3"), ({"reward": "speed"}, "optimality or steps")],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_text_environment("text:random-walks", arguments)
