"""PointMaze: pairs that are held out stay out, and the scripted ball gets where it is sent."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gymnasium_robotics")

from qseq.environments import make_environment
from qseq.environments.maze_map import MazeMap
from qseq.environments.pointmaze import TASKS, held_out_pairs, maze_map
from qseq.environments.pointmaze_controller import WaypointController
from qseq.environments.pointmaze_recipes import RECIPES, pointmaze_recipe
from qseq.episodes import EpisodeStore
from qseq.errors import RequestError
from qseq.evaluation import collect_recipe, evaluate, make_actor

pytestmark = pytest.mark.simulator
ENV = "qseq.environments.pointmaze:qseq/pointmaze-v0"
CONTROLLER = "scripted:qseq.environments.pointmaze_controller:waypoint_controller"


def test_a_map_by_hand() -> None:
    maze = MazeMap([[1, 1, 1, 1], [1, 0, "g", 1], [1, 0, 1, 1], [1, 1, 1, 1]])
    assert maze.free == ((1, 1), (1, 2), (2, 1))
    assert maze.diameter == 2
    assert maze.distances((2, 1)) == {(2, 1): 0, (1, 1): 1, (1, 2): 2}
    assert maze.next_cell((1, 2), (2, 1)) == (1, 1)
    assert maze.next_cell((2, 1), (2, 1)) == (2, 1)
    assert maze.centre((1, 1)).tolist() == [-0.5, 0.5]
    assert maze.cell_at([-0.5, 0.5]) == (1, 1)
    assert maze.cell_at([0.49, -0.01]) == (2, 2)
    places = [[-0.5, 0.5], [0.5, -0.5], [0.5, 0.5], [9.0, 0.0]]
    assert maze.inside_walls(places).tolist() == [False, True, False, True]
    with pytest.raises(RequestError, match=r"cell \(0, 0\) is a wall"):
        maze.distances((0, 0))


@pytest.mark.parametrize("task", TASKS)
def test_the_map_is_that_of_the_environment(task: str) -> None:
    env = make_environment(ENV, {"task": task})
    for cell in maze_map(task).free:
        xy = env.unwrapped._base.maze.cell_rowcol_to_xy(np.array(cell))
        np.testing.assert_allclose(maze_map(task).centre(cell), xy)
    env.close()


def test_a_hundred_pairs_are_held_out_and_far_apart() -> None:
    for task in ("medium", "large"):
        pairs, maze = held_out_pairs(task), maze_map(task)
        assert len(set(pairs)) == 100
        assert all(3 * maze.distances(goal)[start] > maze.diameter for start, goal in pairs)
    assert held_out_pairs("medium")[:2] == held_out_pairs("medium")[:2]


@pytest.mark.parametrize("task", ["umaze", "medium"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_data_never_start_a_run_for_a_pair_that_is_held_out(tmp_path: Path, task: str, recipe: str) -> None:
    collect_recipe(recipe, task, episodes=4, out=tmp_path / "data")
    store, maze, held_out = EpisodeStore.open(tmp_path / "data"), maze_map(task), set(held_out_pairs(task))
    runs = 0
    for index in range(store.num_episodes):
        seen = store.episode(index).observations
        goals, places = seen["desired_goal"], seen["achieved_goal"]
        starts = [0, *(np.flatnonzero((np.diff(goals, axis=0) != 0).any(1)) + 1).tolist()]
        for start in starts:
            runs += 1
            # The next goal is drawn where the last was reached, one observation before it is shown.
            cell = maze.cell_at(places[max(start - 1, 0)])
            assert (cell, maze.cell_at(goals[start])) not in held_out
        if recipe == "stitching":
            assert maze.distances(maze.cell_at(goals[0]))[maze.cell_at(places[0])] <= maze.diameter // 3
    assert runs >= 4


def test_the_controller_reaches_every_goal() -> None:
    kwargs = {"task": "medium", "pairs": "held-out", "stop_at_goal": True}
    result = evaluate(make_actor(CONTROLLER), ENV, kwargs, episodes=10, seed=0, num_envs=1)
    assert result.to_json()["success_rate"] == 1.0


def test_reaching_the_goal_ends_an_episode_or_brings_another_goal() -> None:
    for stop in (True, False):
        env = make_environment(ENV, {"task": "umaze", "stop_at_goal": stop})
        observation, info = env.reset(seed=0)
        actor = WaypointController(env, np.random.default_rng(0))
        first = observation["desired_goal"]
        for _ in range(300):
            observation, reward, terminated, truncated, info = env.step(actor.act(observation))
            if info["success"]:
                break
        assert (reward, terminated, truncated) == (1.0, False, stop)
        assert info["path_length"] > 0.3
        np.testing.assert_array_equal(observation["desired_goal"], first)
        observation, *_ = env.step(np.zeros(2, np.float32))
        assert stop or not np.array_equal(observation["desired_goal"], first)
        env.close()


def test_episodes_are_a_function_of_the_seed() -> None:
    env = make_environment(ENV, {"task": "medium", "pairs": "held-out"})
    first, again, other = (env.reset(seed=seed)[0]["observation"] for seed in (3, 3, 4))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    env.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task": "huge"}, "task='huge' is not a PointMaze task"),
        ({"pairs": "unseen"}, "pairs='unseen': expected one of training, held-out, all"),
        ({"nearest": -1}, "nearest=-1: expected a whole number"),
        ({"nearest": 5, "farthest": 3}, "no start-goal pair is left; 'medium' has a diameter of 11 cells"),
    ],
)
def test_arguments_that_are_wrong(kwargs, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        make_environment(ENV, kwargs)


def test_wrong_recipes_and_controllers() -> None:
    with pytest.raises(RequestError, match="there is no PointMaze recipe 'corrupted': expected one of waypoints"):
        pointmaze_recipe("corrupted", "medium")
    env = make_environment("CartPole-v1")
    with pytest.raises(RequestError, match="acts in PointMaze only, found CartPoleEnv"):
        WaypointController(env, np.random.default_rng(0))
    maze = make_environment(ENV)
    for wrong in ({"gain": 0.0}, {"noise_correlation": 1.0}):
        with pytest.raises(RequestError, match="expected a positive gain"):
            WaypointController(maze, np.random.default_rng(0), **wrong)
    assert all(abs(sum(part.fraction for part in pointmaze_recipe(name)) - 1.0) < 1e-9 for name in RECIPES)
    assert list(itertools.chain(RECIPES)) == ["waypoints", "stitching"]
