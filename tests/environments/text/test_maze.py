from __future__ import annotations

from functools import cache

import pytest

from qseq.environments.text import make_text_environment
from qseq.environments.text.maze import DOUBLE_T, MOVES, Maze
from qseq.errors import RequestError
from qseq.evaluation.text import evaluate_text
from qseq.evaluation.text_actors import scripted
from qseq.evaluation.text_data import generate_rows, summarise_rows

PLAYERS = "scripted:qseq.environments.text.maze_players"
SMALL = """
######
#...##
#.#..#
#G#.##
######
"""


def values_by_stepping(maze: Maze, sweeps: int = 60) -> float:
    """Mean optimal return by value iteration over what `step` does: no shortest paths."""
    values = dict.fromkeys([*maze.starts, maze.goal], 0.0)
    for _ in range(sweeps):
        renewed = {maze.goal: 0.0}
        for start, cell in enumerate(maze.starts):
            outcomes = []
            for move in MOVES:
                maze.reset_to(start)
                step = maze.step(move)
                outcomes.append(step.reward + (0.0 if step.terminated else values[maze.position]))
            renewed[cell] = max(outcomes)
        values = renewed
    return sum(values[cell] for cell in maze.starts) / len(maze.starts)


def partially_observed_value(maze: Maze, depth: int = 40) -> float:
    """Mean optimal return of one who sees the texts only, by recursion over sets of games told apart by their texts."""
    outcomes: dict[tuple[int, str], tuple[int, str, float, bool]] = {}
    cells = maze.starts
    for start in range(len(cells)):
        for move in MOVES:
            maze.reset_to(start)
            step = maze.step(move)
            after = cells.index(maze.position) if not step.terminated else -1
            outcomes[start, move] = (after, step.text, step.reward, step.terminated)

    @cache
    def best(games: tuple[int, ...], left: int) -> float:
        if left == 0:
            return -1000.0
        totals = []
        for move in MOVES:
            total, seen = 0.0, dict[str, list[int]]()
            for game in games:
                after, text, reward, terminated = outcomes[game, move]
                total += reward
                if not terminated:
                    seen.setdefault(text, []).append(after)
            totals.append(total + sum(best(tuple(sorted(group)), left - 1) for group in seen.values()))
        return max(totals)

    first: dict[str, list[int]] = {}
    for start in range(len(cells)):
        first.setdefault(maze.reset_to(start), []).append(start)
    return sum(best(tuple(group), depth) for group in first.values()) / len(cells)


@pytest.mark.parametrize("layout", [DOUBLE_T, SMALL])
def test_the_optimum_is_that_of_value_iteration(layout: str) -> None:
    assert Maze(layout=layout).optimal_return() == pytest.approx(values_by_stepping(Maze(layout=layout)))
    partial = Maze("partially", layout=layout)
    assert partial.optimal_return() == pytest.approx(partially_observed_value(partial))


def test_the_optimum_is_the_published_one() -> None:
    assert Maze().optimal_return() == pytest.approx(-6.84)
    assert Maze().num_starts == 25
    # Published as -25.75; the rules allow this much to a player who knows the maze and remembers.
    assert Maze("partially").optimal_return() == pytest.approx(-7.24)


@pytest.mark.parametrize("layout", [DOUBLE_T, SMALL])
@pytest.mark.parametrize(("observed", "player"), [("fully", "Walker"), ("partially", "BeliefWalker")])
@pytest.mark.parametrize("style", ["sentences", "short"])
def test_the_best_player_attains_the_optimum(layout: str, observed: str, player: str, style: str) -> None:
    arguments = {"layout": layout, "observed": observed, "style": style}
    maze = make_text_environment("text:maze", arguments)
    assert isinstance(maze, Maze)
    result = evaluate_text(
        scripted(f"{PLAYERS}:{player}"), "text:maze", arguments, episodes=maze.num_starts, every_start=True
    )
    assert result.mean_return == pytest.approx(maze.optimal_return())
    assert result.success_rate == 1.0


def test_rules() -> None:
    maze = Maze(horizon=3)
    assert maze.reset_to(maze.starts.index((1, 1))) == (
        "The goal is at position 8, 6. Your current position is at position 1, 1. "
        "There are walls above you, below you, to your left."
    )
    assert maze.step("move up")[1:] == (-1.0, False, False)  # a wall
    assert maze.position == (1, 1)
    assert maze.step("jump")[1:] == (-4.0, False, False)
    assert maze.step(" move   right\n")[1:] == (-1.0, False, True)  # the length limit is no end of the game
    assert maze.position == (1, 2)
    assert maze.success() is False
    maze.reset_to(maze.starts.index((7, 6)))
    assert maze.step("move down") == ("Success", 0.0, True, False)
    assert maze.success() is True
    partial = Maze("partially", style="short")
    assert partial.reset_to(0) == "walls above below left"


def test_reaching_the_goal_with_the_last_move_is_an_end() -> None:
    maze = Maze(horizon=1)
    maze.reset_to(maze.starts.index((7, 6)))
    assert maze.step("move down")[2:] == (True, False)


@pytest.mark.parametrize("name", ["text:maze", "text:maze-partial"])
def test_data_are_of_mixed_quality(name: str) -> None:
    statistics = summarise_rows(generate_rows(name, {"style": "short"}, games=300, seed=1))
    assert statistics.success_rate is not None
    assert 0.02 < statistics.success_rate <= 0.2
    assert -97 < statistics.mean_return < -80
    assert set(statistics.players) == {"MisledWalker", "RandomMover", "Walker"}


def test_every_cell_and_move_is_in_the_data() -> None:
    """Stitching is possible: the optimum is to be put together from what is there."""
    seen = set()
    for row in generate_rows("text:maze", {"style": "short"}, games=300):
        messages = row["messages"]
        seen |= {(messages[i]["content"], messages[i + 1]["content"]) for i in range(0, len(messages) - 1, 2)}
    assert len(seen) == 25 * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"observed": "half"}, "expected 'fully' or 'partially'"),
        ({"horizon": 0}, "horizon=0"),
        ({"style": "long"}, "style='long'"),
        ({"layout": "####\n#..#\n####"}, "0 goals"),
        ({"layout": "###\n#G#\n###"}, "1 free cells"),
        ({"layout": "####\n#.G.\n####"}, "border"),
        ({"layout": "#####\n#.#G#\n#####"}, "cannot be reached from"),
        ({"layout": "####\n#xG#\n####"}, "has 'x'"),
        ({"walls": 3}, "refuses its arguments"),
    ],
)
def test_wrong_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_text_environment("text:maze", arguments)
