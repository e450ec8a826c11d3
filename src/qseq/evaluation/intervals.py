"""How sure one can be of a measured rate or mean."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a success rate (Wilson 1927); it stays within [0, 1] and is honest near its ends.

    Args:
        successes: how many of the trials succeeded.
        trials: 0 gives (0, 1).
        confidence: probability that the interval covers the true rate.

    Raises:
        ValueError: the counts are not 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"expected 0 <= successes <= trials, found {successes} of {trials}")
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2.0)
    rate = successes / trials
    scale = 1.0 + z**2 / trials
    centre = (rate + z**2 / (2.0 * trials)) / scale
    half = z * math.sqrt(rate * (1.0 - rate) / trials + z**2 / (4.0 * trials**2)) / scale
    # The ends are exactly 0 and 1 there; rounding would miss them by 1e-17.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return low, high


def bootstrap_interval(
    values: Sequence[float], seed: int = 0, *, confidence: float = 0.95, resamples: int = 2000
) -> tuple[float, float]:
    """Percentile bootstrap interval of the mean (Efron 1979).

    Args:
        values: [N] measurements; one value gives itself twice, none gives (nan, nan).
        seed: of the resampling, so that the same numbers give the same interval.
        confidence: probability that the interval covers the true mean.
        resamples: how often N values are drawn with replacement.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.size == 0:
        return math.nan, math.nan
    rng = np.random.default_rng(seed)
    means = [data[rng.integers(data.size, size=data.size)].mean() for _ in range(resamples)]
    low, high = np.quantile(means, [0.5 - confidence / 2.0, 0.5 + confidence / 2.0])
    return float(low), float(high)
