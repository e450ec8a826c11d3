"""Run folders and data sets made by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes import Episode, StoreWriter

ACTION_SPACE = {"type": "box", "low": [-1.0] * 4, "high": [1.0] * 4}


def make_store(path: Path, *, episodes: int = 30, steps: int = 40, seed: int = 0, camera: bool = False) -> Path:
    """Two tasks; about a third of the episodes succeed, with a reward of 1 on the last step."""
    rng = np.random.default_rng(seed)
    with StoreWriter(path, action_space=ACTION_SPACE) as writer:
        for index in range(episodes):
            length = int(rng.integers(steps // 2, steps))
            success = bool(rng.random() < 0.35)
            observations = {"state": rng.normal(size=(length + 1, 6)).astype(np.float32)}
            if camera:
                observations["camera"] = rng.integers(0, 255, size=(length + 1, 24, 32, 3), dtype=np.uint8)
            rewards = np.zeros(length, np.float32)
            rewards[-1] = success
            writer.add(
                Episode(
                    observations=observations,
                    actions=rng.uniform(-1, 1, size=(length, 4)).astype(np.float32),
                    rewards=rewards,
                    terminated=success,
                    truncated=not success,
                    success=success,
                    instruction=("push", "reach")[index % 2],
                    metadata={"task": ("push-v3", "reach-v3")[index % 2], "env": "qseq/metaworld-v3"},
                )
            )
    return path


def make_evaluation(rate: float, *, episodes: int = 50, seed: int = 100, **more: Any) -> dict[str, Any]:
    part = {"success_rate": rate, "mean_return": rate, "return_ci95": [rate - 0.1, rate + 0.1], "episodes": episodes}
    tasks = {"push-v3": {**part, "episodes": episodes // 2}, "reach-v3": {**part, "episodes": episodes // 2}}
    return {
        **part,
        "success_ci95": [rate - 0.1, rate + 0.1],
        "seed": seed,
        "env": "qseq.environments.metaworld:qseq/metaworld-v3",
        "run": "runs/x",
        "per_task": tasks,
        "steps_per_second": 1000.0,
        **more,
    }


def make_run(
    path: Path,
    algorithm: str,
    *,
    rate: float | None = 0.5,
    seed: int = 0,
    data: Path | None = None,
    label: str | None = None,
    lines: int = 60,
) -> Path:
    (path / "evaluations").mkdir(parents=True)
    (path / "config.yaml").write_text("training:\n  steps: 3000\n")
    identity = {"algorithm": algorithm, "seed": seed, "data": [str(data)] if data else [], "label": label}
    (path / "run.json").write_text(json.dumps(identity))
    rng = np.random.default_rng(seed)
    records = [
        {"step": 50 * i, "loss": float(np.exp(-i / 20) + 0.05 * rng.random()), "td": float(np.exp(-i / 15)), "lr": 3e-4}
        for i in range(1, lines + 1)
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if rate is not None:
        (path / "evaluations" / "evaluation.json").write_text(json.dumps(make_evaluation(rate, seed=100 + seed)))
    return path


def make_video(path: Path, frames: int = 12) -> Path:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            pixels = np.full((48, 64, 3), index * 20 % 255, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path
