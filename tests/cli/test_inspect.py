"""`qseq inspect`: tables, JSON and the page."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from cli.tools import Command, make_store
from episodes.builders import BOX
from episodes.lerobot_builders import camera_episode
from qseq.episodes import StoreWriter
from qseq.reporting.inspection import sample_episodes
from qseq.reporting.summary import histogram


@pytest.fixture
def data(tmp_path: Path) -> Path:
    names = {"state": ["reach", "<b>lift</b>", "z"]}
    with StoreWriter(tmp_path / "data", action_space=BOX, dimension_names=names) as writer:
        writer.extend(camera_episode(4 + index, index, metadata={"task": f"t{index % 2}"}) for index in range(7))
        writer.add(camera_episode(4, 0, metadata={"fps": 10, "dropped_frames": 3, "task": "t0"}))
    return tmp_path / "data"


def test_tables(qseq: Command, data: Path) -> None:
    outcome = qseq("inspect", data)
    assert outcome.status == 0
    text = " ".join(re.sub(r"[│┃]", " ", outcome.out).split())
    assert "dropped frames 3 in 1 episodes" in text
    assert "duplicates 1 episodes are copies of others: 0 = 7" in text
    assert "height () float32 0 " in text
    for title in ("fields", "returns", "by task or instruction"):
        assert title in outcome.out


def test_json(qseq: Command, data: Path) -> None:
    found = json.loads(qseq("inspect", data, "--json").out)
    assert found["duplicates"] == [[0, 7]]
    assert (found["dropped_frames"], found["episodes_with_dropped_frames"]) == (3, 1)
    assert sum(found["return_histogram"]["counts"]) == found["episodes"] == 8
    assert len(found["return_histogram"]["edges"]) == 11
    assert found["ranges"]["height"] == {
        "min": [0.0],
        "max": [6.0],
        "mean": [pytest.approx(196 / 61)],
        "sampled": False,
    }
    assert {group["name"] for group in found["groups"]} == {"t0", "t1"}
    assert found["valid"] is True


def test_without_time_stamps_nobody_knows(qseq: Command, tmp_path: Path) -> None:
    data = make_store(tmp_path / "data")
    assert json.loads(qseq("inspect", data, "--json").out)["dropped_frames"] is None
    assert "not known" in qseq("inspect", data).out


def test_page(qseq: Command, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    outcome = qseq("inspect", data, "--html", tmp_path / "new" / "page.html")
    assert outcome.status == 0, outcome.err
    page = (tmp_path / "new" / "page.html").read_text()
    assert page.count("data:image/png;base64") >= 6
    assert "Episode 0, camera/front, success" in page or "Episode 1, camera/front, success" in page
    for text in ("Sample frames", "Ranges", "Checks", "state [reach]", "&lt;b&gt;lift"):
        assert text in page
    assert "<b>lift</b>" not in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert qseq("inspect", data, "--html", tmp_path).status == 2


def test_which_episodes_are_shown() -> None:
    assert sample_episodes(np.array([1] * 50 + [0] * 50 + [-1], np.int8)) == [0, 49, 50, 99, 100]
    assert sample_episodes(np.array([1, 0], np.int8)) == [0, 1]
    assert len(sample_episodes(np.full(100, -1, np.int8))) == 6
    assert sample_episodes(np.empty(0, np.int8)) == []


def test_histogram() -> None:
    assert histogram(np.empty(0)).counts == []
    assert histogram(np.ones(5)).edges == [1.0, 1.0]
    assert histogram(np.arange(11.0)).counts == [1] * 9 + [2]
