"""The examples run, and the README shows them as they are."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from cli.tools import TINY, Command
from qseq import get_algorithm
from qseq.configuration import load_config
from support.scripts import ROOT, load_script


def test_quickstart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_script("examples/quickstart.py").main(
        tmp_path, episodes=4, evaluation_episodes=2, settings=[*TINY, "training.steps=2"]
    )
    assert capsys.readouterr().out.count("mean return") == 2


def test_the_settings_for_instructions_are_a_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    config_class = get_algorithm("q-transformer").config_class
    config = load_config(config_class, file=ROOT / "examples" / "instructions.yaml", overrides=[])
    assert config.objective.matching_steps == 1200
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    overrides = load_script("benchmarks/instructions.py").METHODS["q-transformer, odometry"].overrides
    as_measured = load_config(config_class, overrides=list(overrides))
    assert config.objective == as_measured.objective
    assert config.network == as_measured.network
    assert config.data == as_measured.data
    assert config.training.steps == as_measured.training.steps


def test_the_readme_shows_the_quickstart() -> None:
    code = (ROOT / "examples" / "quickstart.py").read_text().split('"""', 2)[2].split("\n\n\nif __name__")[0].strip()
    assert f"```python\n{code}\n```" in (ROOT / "README.md").read_text()


def test_links_of_the_readme_lead_somewhere() -> None:
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", (ROOT / "README.md").read_text()):
        assert (ROOT / link).exists(), link


@pytest.mark.skipif(importlib.util.find_spec("metaworld") is None, reason="needs qseq[metaworld]")
def test_the_demo_types_valid_commands(qseq: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, with the numbers made tiny, in this process."""
    demo = load_script("examples/metaworld_demo.py")
    monkeypatch.setattr(demo, "FOLDER", tmp_path)
    monkeypatch.setattr(demo, "EPISODES", 4)
    monkeypatch.setattr(demo, "EVALUATION_EPISODES", 1)
    monkeypatch.setattr(demo, "WORKERS", 1)
    # Without filtered-bc: among so few episodes there may be no success to clone.
    monkeypatch.setattr(demo, "TRAINING", {name: ["--steps", "2", *TINY] for name in ("q-transformer", "bc")})

    def run_command(label: str, *arguments: str) -> None:
        words = list(arguments)
        if "--video" in words:  # rendering in software takes longer than all the rest
            del words[words.index("--video") : words.index("--video") + 2]
        outcome = qseq(*words)
        assert outcome.status == 0, f"{label}: {words}: {outcome.err}"

    monkeypatch.setattr(demo, "run_command", run_command)
    demo.main()
    assert (tmp_path / "report.html").is_file()
