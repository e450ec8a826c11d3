"""Evaluation: the numbers, their independence of the number of environments, and clear refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from qseq.errors import QseqError, RequestError
from qseq.evaluation import RandomActor, evaluate, make_actor
from tests.evaluation.fakes import Reflex

GRID = "tests.environments.toys:toys/grid-v0"


def rows(num_envs: int, policy: Any) -> list[dict[str, Any]]:
    return evaluate(policy, "CartPole-v1", episodes=9, seed=3, num_envs=num_envs).rows


@pytest.mark.parametrize("make", [Reflex, RandomActor])
def test_independent_of_num_envs(make: Any) -> None:
    expected = rows(1, make())
    assert len({row["seed"] for row in expected}) == 9
    assert rows(4, make()) == expected
    assert rows(20, make()) == expected


def test_result_has_the_contract_keys() -> None:
    policy = Reflex()
    result = evaluate(
        policy, "CartPole-v1", episodes=6, seed=1, num_envs=3, success_return=100, instruction="balance", run="runs/x"
    )
    assert policy.seen == {0, 1, 2}
    assert policy.texts == {"balance"}
    record = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert record["episodes"] == 6
    assert record["success_rate"] == 1.0
    assert record["success_ci95"] == pytest.approx([0.610, 1.0], abs=1e-3)
    assert record["return_ci95"][0] <= record["mean_return"] <= record["return_ci95"][1]
    assert record["mean_length"] == record["mean_return"]
    assert (record["seed"], record["env"], record["run"]) == (1, "CartPole-v1", "runs/x")
    assert record["steps_per_second"] > 0
    assert record["per_task"]["all"]["episodes"] == 6
    assert [row["index"] for row in record["rows"]] == list(range(6))


def test_unknown_success_is_not_failure() -> None:
    result = evaluate(RandomActor(), "CartPole-v1", episodes=2)
    assert result.success_rate is None
    assert result.success_ci95 is None


def test_success_at_any_step_counts() -> None:
    result = evaluate(RandomActor(), GRID, {"length": 40}, episodes=5, seed=0)
    assert result.success_rate == 1.0
    assert list(result.per_task) == ["wait 0"]
    result = evaluate(RandomActor(), GRID, {"length": 1}, episodes=30, seed=0)
    assert 0.0 < (result.success_rate or 0.0) < 0.6


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (Reflex({"camera": (3, 4, 4)}), "field 'camera' is missing, found state"),
        (Reflex({"state": (39,)}), r"field 'state' has shape \[4\], expected \[39\]"),
        (Reflex(action_space={"type": "discrete", "n": 3}), "action space is .*'n': 2.*expected .*'n': 3"),
    ],
)
def test_environment_that_does_not_fit(policy: Reflex, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        evaluate(policy, "CartPole-v1", episodes=1)


def test_broken_episodes_name_their_place() -> None:
    with pytest.raises(QseqError, match=r"grid-v0, episode 0, step 3: .*arm/place that is not finite"):
        evaluate(RandomActor(), GRID, {"break_at": 3}, episodes=1)
    clumsy = make_actor("scripted:tests.evaluation.fakes:Clumsy")
    with pytest.raises(QseqError, match=r"Pendulum-v1, episode 0, step 2: action .* out of bounds"):
        evaluate(clumsy, "Pendulum-v1", episodes=1)


def test_wrong_actors() -> None:
    with pytest.raises(RequestError, match="expected random, scripted"):
        make_actor("clever")
    with pytest.raises(RequestError, match="refuses its arguments"):
        evaluate(make_actor("scripted:tests.evaluation.fakes:Slow", {"colour": 1}), "Pendulum-v1", episodes=1)


def test_films(tmp_path: Path) -> None:
    av = pytest.importorskip("av")
    evaluate(RandomActor(), GRID, episodes=3, num_envs=2, video=tmp_path / "films", video_episodes=2)
    names = sorted(path.name for path in (tmp_path / "films").iterdir())
    assert names == ["episode_0000.mp4", "episode_0001.mp4"]
    with av.open(str(tmp_path / "films" / names[0])) as film:
        frames = [frame.to_ndarray(format="rgb24") for frame in film.decode(video=0)]
    assert len(frames) == 6
    assert frames[0].shape == (16, 16, 3)
    assert frames[-1].mean() > frames[0].mean() + 50
