"""Progress goes to stderr, as plain lines where there is no terminal."""

from __future__ import annotations

import itertools
import sys
from types import SimpleNamespace

import pytest

from qseq import progress
from qseq.progress import Progress, format_seconds, track


def test_plain_lines_without_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "1")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_REDRAWS", 0.0)
    with Progress("training", 4) as bar:
        bar.advance(text="loss 0.5")
        bar.advance(3)
    captured = capsys.readouterr()
    first, second, last = captured.err.splitlines()
    assert captured.out == ""
    assert first.startswith("training: 1/4 steps, ")
    assert first.endswith("loss 0.5")
    assert "4/4" in second
    assert "4/4" in last


def test_a_quick_loop_prints_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "1")
    assert list(track([1, 2, 3], "episodes", unit="episodes")) == [1, 2, 3]
    assert capsys.readouterr().err.count("\n") == 1


def test_silenced(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "0")
    assert list(track(iter("ab"), "letters")) == ["a", "b"]
    assert capsys.readouterr().err == ""


def test_bar_in_a_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("training", 2, done=1) as bar:
        bar.advance(text="loss [1]")
    error = capsys.readouterr().err
    assert "training" in error
    assert "2/2" in error
    assert "loss [1]" in error


def test_steps_done_before_do_not_count_for_the_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.chain([100.0], itertools.repeat(104.0))  # entered at 100 s, every later look at 104 s
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with Progress("training", 100, done=90, enabled=False) as bar:
        assert bar.rate == 0.0
        assert bar.seconds_left is None
        bar.advance(2)
        assert bar.rate == 0.5
        assert bar.seconds_left == 16.0


def test_format_seconds() -> None:
    assert [format_seconds(s) for s in (12, 754, 7440)] == ["12s", "12m34s", "2h04m"]
