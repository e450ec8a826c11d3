"""Both ways with the genuine `lerobot` package, in its own environment: it needs 8 GB, and its pins conflict with ours.

    python -m venv /tmp/lerobot && /tmp/lerobot/bin/pip install lerobot==0.4.4
    QSEQ_LEROBOT_PYTHON=/tmp/lerobot/bin/python python -m pytest tests/interop/lerobot_check.py

Not collected by the ordinary tests, so that they cannot pass by skipping it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from episodes.lerobot_builders import make_camera_store
from qseq.episodes import EpisodeStore, convert
from qseq.episodes.formats.video import psnr

PEER = Path(__file__).with_name("lerobot_peer.py")


def peer(*arguments: object) -> None:
    python = os.environ.get("QSEQ_LEROBOT_PYTHON")
    assert python, "set QSEQ_LEROBOT_PYTHON to the Python of an environment that has lerobot"
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    subprocess.run([python, str(PEER), *map(str, arguments)], check=True, env=environment)


@pytest.mark.parametrize("images", ["video", "png"])
def test_the_genuine_class_reads_what_we_write(tmp_path: Path, images: str) -> None:
    store = make_camera_store(tmp_path / "s", episodes=6)
    convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}", images=images, fps=20)
    peer("read", tmp_path / "l", tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    assert found["fps"] == 20
    for index in range(store.num_episodes):
        rows = found["episode_index"] == index
        episode = store.episode(index)
        np.testing.assert_array_equal(found["observation.state"][rows], episode.observations["state"][:-1])
        np.testing.assert_array_equal(found["observation.grid"][rows], episode.observations["grid"][:-1])
        np.testing.assert_array_equal(found["action"][rows], episode.actions)
        np.testing.assert_array_equal(found["next.reward"][rows], episode.rewards)
        assert found["next.done"][rows].any() == (episode.terminated or episode.truncated)
        assert found["next.truncated"][rows].any() == episode.truncated
        assert found["next.success"][rows].any() == bool(episode.success)
        assert set(found["task"][rows]) == {episode.instruction}
        pictures = np.rint(255 * found["observation.images.camera.front"][rows]).astype(np.uint8)
        expected = episode.observations["camera/front"][:-1]
        assert psnr(pictures, expected) > (30 if images == "video" else 200)
    states = np.concatenate([store.episode(i).observations["state"][:-1] for i in range(store.num_episodes)])
    for name in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(found[f"stats/{name}"], getattr(states, name)(axis=0), rtol=1e-5)


def test_we_read_what_the_genuine_class_writes(tmp_path: Path) -> None:
    peer("write", tmp_path / "l")
    peer("read", tmp_path / "l", tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    convert(f"lerobot:{tmp_path / 'l'}", str(tmp_path / "s"))
    store = EpisodeStore.open(tmp_path / "s")
    assert store.num_steps == len(found["index"])
    for index in range(store.num_episodes):
        rows = found["episode_index"] == index
        episode = store.episode(index)
        np.testing.assert_array_equal(episode.observations["state"][:-1], found["observation.state"][rows])
        np.testing.assert_array_equal(episode.actions, found["action"][rows])
        np.testing.assert_array_equal(episode.rewards, found["next.reward"][rows])
        assert {episode.instruction} == set(found["task"][rows])
        for camera in ("front", "wrist"):
            pictures = np.rint(255 * found[f"observation.images.{camera}"][rows]).astype(np.uint8)
            assert psnr(episode.observations[camera][:-1], pictures) > 45  # two decoders of one film
