"""Killed at random moments a store holds what was committed and the work goes on; two writers never share one."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qseq.episodes import EpisodeStore, StoreWriter
from qseq.errors import RequestError
from tests.fault_injection import KINDS, Case, experiment

from .builders import BOX, make_episode, make_store

pytest.importorskip("pyarrow")
pytest.importorskip("simplejpeg")


@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_a_random_moment(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "0")
    monkeypatch.setattr("qseq.episodes.writer._GROUP_EPISODES", 64)  # cases set it: put back at the end

    @settings(max_examples=4, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.integers(0, 2**32))
    def holds(seed: int) -> None:
        with tempfile.TemporaryDirectory() as folder:
            experiment(Case.draw(kind, seed), Path(folder))

    holds()


def test_the_second_writer_is_refused(tmp_path: Path) -> None:
    make_store(tmp_path / "s", [2, 3])
    with StoreWriter(tmp_path / "s") as first:
        with pytest.raises(RequestError, match="another process is writing to it"):
            StoreWriter(tmp_path / "s")
        first.add(make_episode(2, 2))
    with StoreWriter(tmp_path / "s") as second:
        second.add(make_episode(1, 3))
    store = EpisodeStore.open(tmp_path / "s")
    store.verify()
    assert store.lengths.tolist() == [2, 3, 2, 1]


def test_two_collections_at_once(tmp_path: Path) -> None:
    """Of a store that neither found: one makes it, the other is told so and leaves it alone."""
    out = str(tmp_path / "s")
    command = [sys.executable, "-m", "qseq.cli.main", "collect", "--env", "Pendulum-v1", "--out", out, "--seed"]
    programs = [
        subprocess.Popen([*command, str(seed), "--episodes", "40"], stderr=subprocess.PIPE, stdout=subprocess.PIPE)
        for seed in range(3)
    ]
    errors = [program.communicate()[1].decode() for program in programs]
    statuses = [program.returncode for program in programs]
    assert set(statuses) <= {0, 2}
    assert 0 in statuses
    for status, error in zip(statuses, errors, strict=True):
        assert status == 0 or "another process is writing to it" in error
    store = EpisodeStore.open(out)
    store.verify()
    assert store.num_episodes == 40 * statuses.count(0)


def test_a_lock_does_not_outlive_its_process(tmp_path: Path) -> None:
    program = (
        "import os, signal\n"
        "from qseq.episodes import StoreWriter\n"
        f"writer = StoreWriter({str(tmp_path / 's')!r}, action_space={BOX!r})\n"
        "print('open', flush=True)\n"
        "signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        with pytest.raises(RequestError, match="another process is writing"):
            StoreWriter(tmp_path / "s", action_space=BOX)
        process.kill()
        process.wait()
    time.sleep(0.01)
    StoreWriter(tmp_path / "s", action_space=BOX).close()
