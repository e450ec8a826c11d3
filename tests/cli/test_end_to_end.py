"""Every command once, on environments anybody has, as a person would type them."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cli.tools import TINY, Command
from qseq.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PENDULUM = '{"max_episode_steps": 20}'


@pytest.mark.parametrize(
    ("env", "kwargs", "algo", "settings"),
    [
        ("Pendulum-v1", PENDULUM, "q-transformer", ["objective.value=unbounded", "objective.bootstrap_steps=[1,3]"]),
        ("CartPole-v1", "{}", "q-transformer", ["objective.value_high=100"]),
        ("CartPole-v1", "{}", "bc", []),
    ],
)
def test_collect_train_evaluate_report(
    qseq: Command, tmp_path: Path, env: str, kwargs: str, algo: str, settings: list[str]
) -> None:
    data, run, result = tmp_path / "data", tmp_path / "run", tmp_path / "result.json"
    where = ["--env", env, "--env-kwargs", kwargs]

    assert qseq("collect", *where, "--episodes", 6, "--seed", 3, "--out", data).status == 0
    told = qseq("inspect", data, "--json")
    assert told.status == 0
    summary = json.loads(told.out)
    assert summary["episodes"] == 6
    assert summary["success_rate"] is None
    assert set(summary["fields"]) == {"state", "action", "reward"}

    outcome = qseq("train", "--algo", algo, "--data", data, "--out", run, "--steps", 4, *TINY, *settings)
    assert outcome.status == 0, outcome.err
    assert (run / "config.yaml").is_file()
    assert (run / "metrics.jsonl").read_text().count("\n") == 2
    assert json.loads((run / "run.json").read_text())["algorithm"] == algo

    measure = ["--episodes", 3, "--seed", 5, "--num-envs", 2, "--success-return", -1e9, "--json", result]
    outcome = qseq("evaluate", run, *where, *measure)
    assert outcome.status == 0, outcome.err
    found = json.loads(result.read_text())
    needed = {
        "success_rate",
        "success_ci95",
        "mean_return",
        "return_ci95",
        "episodes",
        "seed",
        "env",
        "run",
        "per_task",
    }
    assert needed | {"steps_per_second"} <= set(found)
    assert (found["success_rate"], found["episodes"], found["seed"], found["env"]) == (1.0, 3, 5, env)
    (stored,) = (run / "evaluations").glob("*.json")
    assert json.loads(stored.read_text()) == found

    outcome = qseq("report", run, "--out", tmp_path / "new" / "report.html")
    assert outcome.status == 0, outcome.err
    page = (tmp_path / "new" / "report.html").read_text()
    assert algo in page
    assert ("Q over bins" in page) == (algo == "q-transformer")


def test_collect_goes_on_and_adds(qseq: Command, tmp_path: Path) -> None:
    base = ["collect", "--env", "CartPole-v1", "--out", tmp_path / "data"]
    for more, episodes in ((["--episodes", 2], 2), (["--episodes", 5], 5), (["--episodes", 3, "--seed", 1], 8)):
        assert qseq(*base, *more).status == 0
        assert json.loads(qseq("inspect", tmp_path / "data", "--json").out)["episodes"] == episodes


def test_a_trained_policy_collects(qseq: Command, tmp_path: Path) -> None:
    base = ["collect", "--env", "CartPole-v1", "--out", tmp_path / "data"]
    qseq(*base, "--episodes", 4)
    qseq("train", "--algo", "bc", "--data", tmp_path / "data", "--out", tmp_path / "run", "--steps", 2, *TINY)
    assert qseq(*base, "--policy", tmp_path / "run", "--episodes", 2).status == 0
    outcome = qseq(*base, "--policy", "scripted:nowhere:Nobody")
    assert outcome.status == 2
    assert "nowhere" in outcome.error


def test_the_same_commands_give_the_same_numbers(qseq: Command, tmp_path: Path) -> None:
    results = []
    for name in ("a", "b"):
        data, run = tmp_path / f"data-{name}", tmp_path / f"run-{name}"
        qseq("collect", "--env", "CartPole-v1", "--episodes", 4, "--out", data)
        qseq("train", "--algo", "bc", "--data", data, "--out", run, "--steps", 3, *TINY)
        qseq("evaluate", run, "--env", "CartPole-v1", "--episodes", 4, "--json", tmp_path / f"{name}.json")
        results.append(json.loads((tmp_path / f"{name}.json").read_text())["rows"])
    assert results[0] == results[1]


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(qseq: Command, folder: Path) -> None:
    command = ["train", "--algo", "bc", "--data", folder / "data", *TINY, "--out"]
    assert qseq(*command, folder / "whole", "--steps", 6).status == 0
    assert qseq(*command, folder / "run", "--steps", 6, "--resume").status == 0
    weights = [folder / run / "checkpoints" / "step_00000006" / "model.safetensors" for run in ("whole", "run")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    # The settings of a run come from the run itself.
    assert qseq("train", "--algo", "bc", "--data", folder / "data", "--out", folder / "run", "--resume").status == 0


def test_settings_may_stand_anywhere_and_later_ones_win(qseq: Command, folder: Path) -> None:
    (folder / "settings.yaml").write_text("training:\n  steps: 9\n  learning_rate: 0.1\n")
    outcome = qseq(
        "train", "--algo", "bc", "network.dropout=0.1", "--data", folder / "data", "--config", folder / "settings.yaml",
        "--steps", 2, "--training.weight_decay=0.01", "--out", folder / "new", *TINY, "--label", "small",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    config = (folder / "new" / "config.yaml").read_text()
    for line in ("dropout: 0.1", "weight_decay: 0.01", "learning_rate: 0.1", "steps: 2"):
        assert line in config
    assert json.loads((folder / "new" / "run.json").read_text())["label"] == "small"


def test_convert_there_and_back(qseq: Command, folder: Path) -> None:
    pytest.importorskip("minari")
    assert qseq("convert", folder / "data", f"minari:{folder}/shared/tiny-v0").status == 0
    assert qseq("convert", f"minari:{folder}/shared/tiny-v0", folder / "back").status == 0
    before, after = (json.loads(qseq("inspect", folder / name, "--json").out) for name in ("data", "back"))
    for key in ("episodes", "steps", "success_rate", "returns"):
        assert before[key] == after[key]


def test_inspect_prints_tables(qseq: Command, folder: Path) -> None:
    outcome = qseq("inspect", folder / "data")
    assert outcome.status == 0
    for words in ("episodes", "float32", "action space", "sound"):
        assert words in outcome.out


@pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs qseq[metaworld]")
def test_collect_a_recipe(qseq: Command, tmp_path: Path) -> None:
    task = '{"task": "drawer-open-v3"}'
    base = ["collect", "--recipe", "half-finished", "--out", tmp_path / "data"]
    assert qseq(*base, "--env-kwargs", task, "--episodes", 4).status == 0
    (group,) = json.loads(qseq("inspect", tmp_path / "data", "--json").out)["groups"]
    assert (group["name"], group["episodes"]) == ("drawer-open-v3", 4)
    for wrong, words in (
        (["--env", "CartPole-v1"], "--env"),
        (["--env-kwargs", '{"max_episode_steps": 3}'], "max_episode_steps"),
        (["--env-kwargs", '{"task": "fly-v3"}'], "fly-v3"),
        (["--recipe", "perfect"], "perfect"),
        (["--episodes", "1"], "too few"),
    ):
        outcome = qseq(*base, *wrong)
        assert outcome.status == 2
        assert words in outcome.error


def test_help_loads_no_heavy_library() -> None:
    heavy = {"torch", "numpy", "pandas", "pyarrow", "gymnasium", "transformers", "matplotlib"}
    for arguments in (["--help"], *([command, "--help"] for command in COMMANDS)):
        call = f"import sys; from qseq.cli.main import main; status = main({arguments!r}); "
        code = call + f"assert not {heavy} & {{*sys.modules}}; sys.exit(status)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert "usage: qseq" in done.stdout


def test_the_installed_command_reports_its_status(tmp_path: Path) -> None:
    command = shutil.which("qseq", path=str(Path(sys.executable).parent))
    assert command is not None, "pip install -e . makes it"
    done = subprocess.run([command, "inspect", "nothing"], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
