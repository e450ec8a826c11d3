"""Episodes and stores for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from qseq.episodes import Episode, EpisodeStore, StoreWriter

BOX: dict[str, Any] = {"type": "box", "low": [-1.0, -1.0], "high": [1.0, 1.0], "shape": [2], "dtype": "float32"}


def make_episode(steps: int, seed: int = 0, **changes: Any) -> Episode:
    """A random episode; rewards and observations tell their place, so that a wrong row is seen."""
    rng = np.random.default_rng(seed)
    parts: dict[str, Any] = {
        "observations": {
            "state": (seed * 1000 + np.arange(steps + 1)[:, None] + np.zeros(3)).astype(np.float32),
            "camera/front": rng.integers(0, 256, (steps + 1, 4, 5, 3), dtype=np.uint8),
        },
        "actions": rng.uniform(-1, 1, (steps, 2)).astype(np.float32),
        "rewards": rng.normal(size=steps).astype(np.float32),
        "terminated": seed % 3 == 0,
        "truncated": seed % 3 == 1,
        "success": (None, True, False)[seed % 3],
        "instruction": f"do {seed % 2}",
        "metadata": {"seed": seed, "task": "test", "weight": 0.5, "expert": True},
    }
    return Episode(**(parts | changes))


def make_store(path: Path, lengths: list[int], first_seed: int = 0) -> EpisodeStore:
    with StoreWriter(path, action_space=BOX) as writer:
        writer.extend(make_episode(steps, first_seed + i) for i, steps in enumerate(lengths))
    return EpisodeStore.open(path)


def assert_same(found: Episode, expected: Episode) -> None:
    """Equal in everything but float64, which stores keep as float32."""
    assert found.observations.keys() == expected.observations.keys()
    for name, values in expected.observations.items():
        dtype = np.float32 if values.dtype == np.float64 else values.dtype
        assert found.observations[name].dtype == dtype
        np.testing.assert_array_equal(found.observations[name], values.astype(dtype))
    np.testing.assert_array_equal(found.actions, expected.actions)
    np.testing.assert_array_equal(found.rewards, expected.rewards.astype(np.float32))
    for name in ("terminated", "truncated", "success", "instruction", "metadata"):
        assert getattr(found, name) == getattr(expected, name), name


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
