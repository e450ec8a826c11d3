"""Runs in the `lerobot` package's own environment, not in qseq's.

    python lerobot_peer.py write ROOT            a small data set written by the genuine package
    python lerobot_peer.py read ROOT OUT.npz     every frame as the genuine dataset class gives it

tests/episodes/data/lerobot_v3 was written by the first (lerobot 0.4.4).
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from lerobot.datasets.lerobot_dataset import LeRobotDataset

PICTURE = {"shape": (64, 64, 3), "names": ["height", "width", "channels"]}
FEATURES: dict[str, Any] = {
    "observation.state": {"dtype": "float32", "shape": (3,), "names": ["x", "y", "z"]},
    "observation.grid": {"dtype": "float32", "shape": (2, 3), "names": None},
    "observation.images.front": {"dtype": "video", **PICTURE},
    "observation.images.wrist": {"dtype": "image", **PICTURE},
    "action": {"dtype": "float32", "shape": (2,), "names": ["dx", "dy"]},
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}


def picture(episode: int, step: int) -> np.ndarray:
    """A bright band that moves down one row of blocks a step."""
    pixels = np.full((64, 64, 3), 40 * episode, np.uint8)
    pixels[4 * step : 4 * step + 8] = 200
    return pixels


def write(root: Path) -> None:
    dataset = LeRobotDataset.create("someone/toy", fps=10, features=FEATURES, root=root)
    for episode in range(3):
        steps = 5 + episode
        for step in range(steps):
            last = step == steps - 1
            dataset.add_frame(
                {
                    "observation.state": np.array([episode, step, 0.5], np.float32),
                    "observation.grid": np.arange(6, dtype=np.float32).reshape(2, 3) + step,
                    "observation.images.front": picture(episode, step),
                    "observation.images.wrist": picture(episode, step),
                    "action": np.array([step / 10, -step / 10], np.float32),
                    "next.reward": np.array([float(last)], np.float32),
                    "next.done": np.array([last]),
                    "next.success": np.array([last and episode != 1]),
                    "task": f"task {episode % 2}",
                }
            )
        dataset.save_episode()
    dataset.finalize()


def read(root: Path, out: Path) -> None:
    dataset = LeRobotDataset("someone/toy", root=root, video_backend="pyav")
    items = [dataset[index] for index in range(len(dataset))]
    arrays = {key: np.stack([np.asarray(item[key]) for item in items]) for key in items[0] if key != "task"}
    arrays["task"] = np.array([item["task"] for item in items])
    arrays["fps"] = np.array(dataset.fps)
    state = dataset.meta.stats["observation.state"]
    arrays |= {f"stats/{name}": np.asarray(state[name]) for name in ("min", "max", "mean", "std", "q50")}
    np.savez(out, **arrays)
    # What a policy would be trained on: a window in time, in batches.
    windows = LeRobotDataset(
        "someone/toy", root=root, video_backend="pyav", delta_timestamps={"action": [0.0, 1 / dataset.fps]}
    )
    assert windows[0]["action"].shape[0] == 2


if __name__ == "__main__":
    if sys.argv[1] == "write":
        write(Path(sys.argv[2]))
    else:
        read(Path(sys.argv[2]), Path(sys.argv[3]))
