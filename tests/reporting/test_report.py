"""The page: well formed, self-contained, and it says what the runs say."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from qseq.errors import DataError, RequestError
from qseq.reporting import action_values, write_report
from qseq.reporting.action_values import EpisodeValues
from reporting.fake_runs import make_evaluation, make_run, make_store, make_video

VOID = {"meta", "img", "br", "hr", "link", "input"}
REQUESTING = {"src", "href", "xlink:href", "poster", "srcset", "action", "data"}


class Page(HTMLParser):
    """Collects what a test asks about; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id" and value]
        self.addresses += [value or "" for name, value in attrs if name in REQUESTING]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read_page(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


def fake_values(run: object, episode: object) -> EpisodeValues:
    """Three dimensions of 8, 8 and 2 bins; what the last one lacks is not a number."""
    steps = len(episode.rewards)  # type: ignore[attr-defined]
    values = np.random.default_rng(0).random((steps, 3, 8))
    values[:, 2, 2:] = np.nan
    blind = SimpleNamespace(takes_instructions=False, attention=lambda *_: {})
    return EpisodeValues(values, np.zeros((steps, 3), np.int64), blind)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report about everything: two seeds of one method, two others, data with a camera, a video."""
    root = tmp_path_factory.mktemp("full")
    data = make_store(root / "data", camera=True)
    runs = [
        make_run(root / "q0", "q-transformer", rate=0.9, data=data),
        make_run(root / "q1", "q-transformer", rate=0.8, seed=1, data=data),
        make_run(root / "bc", "bc", rate=0.3, data=data),
        make_run(root / "evil", "<script>alert(1)</script>", rate=0.1, data=data),
    ]
    make_video(runs[0] / "evaluations" / "video" / "first.mp4")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(action_values, "episode_values", fake_values)
        write_report(runs, root / "report.html")
    return root / "report.html"


def test_is_well_formed_and_asks_the_network_for_nothing(full: Path) -> None:
    page = read_page(full)
    assert all(address.startswith(("data:", "#")) for address in page.addresses), page.addresses
    text = full.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\((?!#|['\"]?#)", text)
    assert "http://" not in text
    assert "https://" not in text
    assert len(page.ids) == len(set(page.ids)), "two elements share an id: a browser would mix up their clip paths"


def test_holds_every_figure(full: Path) -> None:
    page = read_page(full)
    # Scores, four methods' heat maps and values (three methods: seeds share theirs), curves, two histograms.
    assert page.tags.count("svg") == 1 + 2 * 3 + 1 + 2
    assert page.tags.count("video") == 1
    assert page.tags.count("img") == 1
    assert page.tags.count("section") == 5


def test_escapes_what_comes_from_runs(full: Path) -> None:
    assert "script" not in read_page(full).tags
    assert "<script>alert(1)</script>" in read_page(full).text


def test_pools_seeds_and_says_the_main_result(full: Path) -> None:
    text = read_page(full).text
    assert "q-transformer succeeds in 85% of 100 episodes" in text
    assert "55 points more than bc" in text
    assert "Learnt from 30 logged episodes" in text


def test_colours_follow_the_page(full: Path) -> None:
    text = full.read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in text
    assert "var(--series-0)" in text
    assert not re.search(r"#0[1-6]0[1-6]0[1-6]", text), "a placeholder colour was left in a figure"


def test_lacking_ingredients_are_said_in_one_line(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "bc", rate=None, lines=1)
    write_report([run], tmp_path / "report.html")
    page = read_page(tmp_path / "report.html")
    assert "svg" not in page.tags
    for line in ("No run has been evaluated", "two lines in its metrics", "do not say which data", "has a video"):
        assert line in page.text


def test_data_that_moved_does_not_stop_the_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "bc", data=tmp_path / "gone")
    write_report([run], tmp_path / "report.html")
    assert f"{tmp_path / 'gone'} cannot be shown" in read_page(tmp_path / "report.html").text


def test_returns_are_shown_where_success_is_unknown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "bc", rate=None)
    result = {"episodes": 5, "mean_return": -140.0, "return_ci95": [-150.0, -130.0], "env": "Pendulum-v1"}
    (run / "evaluations" / "a.json").write_text(json.dumps({**result, "success_rate": None}))
    write_report([run], tmp_path / "report.html")
    text = read_page(tmp_path / "report.html").text
    assert "bc reaches the highest mean return, -140" in text
    assert "-140 (-150 to -130)" in text


def test_a_close_result_is_called_close(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "a", "a", rate=0.5), make_run(tmp_path / "b", "b", rate=0.46)]
    write_report(runs, tmp_path / "report.html")
    assert "too close to tell apart" in read_page(tmp_path / "report.html").text


def test_a_second_copy_of_a_result_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "q", rate=0.5)
    (run / "evaluations" / "copy.json").write_text((run / "evaluations" / "evaluation.json").read_text())
    write_report([run], tmp_path / "report.html")
    assert "50% of 50 episodes" in read_page(tmp_path / "report.html").text


def test_settings_are_told_apart(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "q", rate=0.5)
    sampled = make_evaluation(0.7, policy_options={"decoding": "sampled"})
    (run / "evaluations" / "sampled.json").write_text(json.dumps(sampled))
    write_report([run], tmp_path / "report.html")
    assert "decoding=sampled" in read_page(tmp_path / "report.html").text


def test_the_same_runs_give_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "bc", data=make_store(tmp_path / "data", episodes=5))
    for name in ("a.html", "b.html"):
        write_report([run], tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("evaluations/evaluation.json", "{", "is damaged"),
        ("evaluations/evaluation.json", "[]", "expected a JSON object"),
        ("evaluations/evaluation.json", '{"episodes": 3}', "found no 'mean_return'"),
        ("metrics.jsonl", '{"step": 1\n{"step": 2}\n', "line 1 is damaged"),
    ],
)
def test_damaged_files_are_named(tmp_path: Path, file: str, content: str, words: str) -> None:
    run = make_run(tmp_path / "run", "bc")
    (run / file).write_text(content)
    with pytest.raises(DataError, match=re.escape(words)) as caught:
        write_report([run], tmp_path / "report.html")
    assert str(run / file) in str(caught.value)
    assert not (tmp_path / "report.html").exists()


def test_a_last_line_cut_short_is_left_out(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", "bc")
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 99, "lo')
    write_report([run], tmp_path / "report.html")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="not a run folder"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(RequestError, match="no such folder"):
        write_report([tmp_path / "nothing"], tmp_path / "report.html")
