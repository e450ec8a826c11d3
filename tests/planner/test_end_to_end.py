"""From data to a report over PointMaze, as the command line does it; small, so that nothing is learnt."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("gymnasium_robotics")

from qseq.cli.main import main
from tests.planner.worlds import SMALL

pytestmark = pytest.mark.simulator
ENV = "qseq.environments.pointmaze:qseq/pointmaze-v0"


def test_collect_train_evaluate_report(tmp_path: Path) -> None:
    data, run, result = tmp_path / "data", tmp_path / "run", tmp_path / "result.json"
    task = json.dumps({"task": "umaze"})
    collect = ["collect", "--recipe", "stitching", "--env-kwargs", task, "--episodes", "12", "--out", str(data)]
    assert main(collect) == 0
    overrides = [*SMALL, "data.goal_field=desired_goal", "trajectory.stride=5"]
    assert main(["train", "--algo", "diffuser", "--data", str(data), "--out", str(run), *overrides]) == 0
    kwargs = json.dumps({"task": "umaze", "pairs": "held-out", "stop_at_goal": True, "max_episode_steps": 30})
    evaluate = ["evaluate", str(run), "--env", ENV, "--env-kwargs", kwargs, "--episodes", "3", "--json", str(result)]
    assert main([*evaluate, "--policy-options", "candidates=2", "steps=2"]) == 0
    assert json.loads(result.read_text())["episodes"] == 3
    page = tmp_path / "report.html"
    assert main(["report", str(run), "--out", str(page)]) == 0
    text = page.read_text()
    assert "How it plans" in text
    assert "the chosen one has the highest value" in text
    assert "Plans over the maze, diffuser" in text


def test_a_plain_pointmaze_is_evaluated_too(tmp_path: Path) -> None:
    """gymnasium-robotics' own id, whose observations have the same fields."""
    data, run = tmp_path / "data", tmp_path / "run"
    collect = ["collect", "--recipe", "waypoints", "--env-kwargs", json.dumps({"task": "umaze"}), "--episodes", "1"]
    assert main([*collect, "--out", str(data)]) == 0
    overrides = [*SMALL, "data.goal_field=desired_goal", "trajectory.stride=5"]
    assert main(["train", "--algo", "diffuser", "--data", str(data), "--out", str(run), *overrides]) == 0
    kwargs = json.dumps({"continuing_task": True, "reset_target": True, "max_episode_steps": 20})
    evaluate = ["evaluate", str(run), "--env", "PointMaze_UMaze-v3", "--env-kwargs", kwargs, "--episodes", "1"]
    assert main(evaluate) == 0
