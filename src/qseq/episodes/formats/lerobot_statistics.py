"""Statistics as LeRobot keeps them: of each episode, and over all episodes.

Pictures are measured in [0, 1], one number a channel, on some of an episode's frames. Quantiles over all episodes are
the means of the episodes' quantiles weighted by their lengths, as the `lerobot` package computes them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
NAMES = ("min", "max", "mean", "std", "count", *QUANTILES)
_FRAMES = 16

Statistics = dict[str, dict[str, np.ndarray]]


def of_numbers(values: np.ndarray) -> dict[str, np.ndarray]:
    """[T, ...] -> arrays of the row's shape, [1] for a single number."""
    rows = values.reshape(len(values), *(values.shape[1:] or (1,))).astype(np.float64)
    return _measure(rows, axis=0) | {"count": np.array([len(rows)])}


def of_pictures(pictures_THWC: np.ndarray) -> dict[str, np.ndarray]:
    """uint8 [T, height, width, channels] -> arrays [channels, 1, 1]."""
    chosen = np.unique(np.linspace(0, len(pictures_THWC) - 1, _FRAMES).round().astype(int))
    pixels = pictures_THWC[chosen].reshape(-1, pictures_THWC.shape[-1]) / 255.0
    return {name: values[:, None, None] for name, values in _measure(pixels, axis=0).items()} | {
        "count": np.array([len(chosen)])
    }


def _measure(rows: np.ndarray, axis: int) -> dict[str, np.ndarray]:
    quantiles = np.quantile(rows, list(QUANTILES.values()), axis=axis)
    return {
        "min": rows.min(axis),
        "max": rows.max(axis),
        "mean": rows.mean(axis),
        "std": rows.std(axis),
        **dict(zip(QUANTILES, quantiles, strict=True)),
    }


class Total:
    """Statistics over all episodes, added one episode at a time (Chan, Golub and LeVeque 1979 for the variance)."""

    def __init__(self) -> None:
        self._total: Statistics = {}

    def add(self, episode: Statistics) -> None:
        for key, new in episode.items():
            old = self._total.get(key)
            if old is None:
                self._total[key] = dict(new)
                continue
            count, more = old["count"], new["count"]
            share = more / (count + more)
            delta = new["mean"] - old["mean"]
            variance = old["std"] ** 2 * (1 - share) + new["std"] ** 2 * share + delta**2 * share * (1 - share)
            merged = {
                "min": np.minimum(old["min"], new["min"]),
                "max": np.maximum(old["max"], new["max"]),
                "std": np.sqrt(variance),
                "count": count + more,
            }
            merged |= {name: old[name] + share * (new[name] - old[name]) for name in ("mean", *QUANTILES)}
            self._total[key] = merged

    def to_json(self) -> dict[str, Any]:
        return {
            key: {name: values[name].tolist() for name in NAMES if name in values}
            for key, values in self._total.items()
        }
