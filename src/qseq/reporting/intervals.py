"""95% intervals of success rates, and of the difference of two."""

from __future__ import annotations

from math import sqrt
from typing import NamedTuple

Z95 = 1.959963984540054


class Interval(NamedTuple):
    """An estimate and the ends of its 95% interval."""

    value: float
    low: float
    high: float


def success_interval(successes: float, episodes: int) -> Interval:
    """Wilson's score interval: sensible for few episodes and at 0% and 100%, unlike the normal approximation."""
    rate = successes / episodes
    spread = Z95**2 / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = Z95 * sqrt(rate * (1 - rate) / episodes + spread / (4 * episodes)) / (1 + spread)
    return Interval(rate, max(0.0, min(rate, centre - half)), min(1.0, max(rate, centre + half)))


def difference_interval(first: Interval, second: Interval) -> Interval:
    """Newcombe's interval of the difference of two independent success rates (1998, method 10)."""
    value = first.value - second.value
    low = value - sqrt((first.value - first.low) ** 2 + (second.high - second.value) ** 2)
    high = value + sqrt((first.high - first.value) ** 2 + (second.value - second.low) ** 2)
    return Interval(value, low, high)


def pooled_mean(parts: list[tuple[Interval, int]]) -> Interval:
    """The mean over several independent samples, given the interval and size of each."""
    total = sum(size for _, size in parts)
    value = sum(part.value * size for part, size in parts) / total
    half = sqrt(sum(((part.high - part.low) / 2 * size / total) ** 2 for part, size in parts))
    return Interval(value, value - half, value + half)
