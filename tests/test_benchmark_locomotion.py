"""What SAC did becomes a store: episodes cut at the right rows, the best tenth marked, ends told apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from qseq.episodes import EpisodeStore, EpisodeView
from support.scripts import ROOT, load_script


def test_a_recording_becomes_a_store(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    module = load_script("benchmarks/locomotion.py")
    lengths = np.array([3, 1, 2])
    np.savez(
        tmp_path / "sac.npz",
        observations=np.arange(9 * 3, dtype=np.float32).reshape(9, 3),  # a row more than steps for each episode
        actions=np.linspace(-2, 2, 6, dtype=np.float32)[:, None],
        rewards=np.array([1, 1, 1, -5, 4, 4], np.float32),
        lengths=lengths,
        terminated=np.array([True, False, False]),
        final=np.array([False, False, True]),
    )
    module.write_store(tmp_path / "sac.npz", tmp_path / "store", "Pendulum-v1")
    view = EpisodeView(EpisodeStore.open(tmp_path / "store"))
    episodes = [view.episode(number) for number in range(3)]
    assert [episode.observations["state"][0, 0] for episode in episodes] == [0, 12, 18]
    assert [len(episode.observations["state"]) for episode in episodes] == [4, 2, 3]
    assert [episode.terminated for episode in episodes] == [True, False, False]
    assert [episode.truncated for episode in episodes] == [False, True, True]
    assert [episode.success for episode in episodes] == [False, False, True]
    assert [episode.metadata["source"] for episode in episodes] == ["replay", "replay", "final policy"]
    np.testing.assert_allclose(episodes[2].rewards, [4, 4])
