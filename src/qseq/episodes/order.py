"""A permutation that is computed where it is needed and never stored whole.

A Feistel network over the smallest power of two that holds all steps; positions it sends outside are sent on until they
land inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). It needs next to
no memory, so a data set may have any number of steps, and it is the same with every version of numpy.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 6
_MIN_BITS = 6
_MASK = (1 << 64) - 1
_STEP = 0x9E3779B97F4A7C15


class Permutation:
    """A permutation of range(size) for each (seed, epoch).

    The round functions are read from tables of the square root of `size` entries, made once an epoch.

    Args:
        size: how many things are permuted, at least 1.
        seed, epoch: at least 0; every pair gives another permutation.
    """

    def __init__(self, size: int, seed: int, epoch: int) -> None:
        self.size = size
        bits = max((size - 1).bit_length(), _MIN_BITS)
        self._low_bits = bits // 2
        high_bits = bits - self._low_bits
        state = _mix_scalar(seed & _MASK)
        state = _mix_scalar(state ^ (epoch & _MASK))
        self._tables = []
        for number in range(_ROUNDS):
            state = _mix_scalar(state)
            # Even rounds change the high half by the low one, odd rounds the low half by the high one.
            entries, width = (high_bits, self._low_bits) if number % 2 else (self._low_bits, high_bits)
            self._tables.append(_random_table(1 << entries, width, state))

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """Send each of the positions, int64 [B] in [0, size), to its place, int64 [B]."""
        places = self._encrypt(positions)
        outside = np.flatnonzero(places >= self.size)
        while len(outside):
            places[outside] = self._encrypt(places[outside])
            outside = outside[places[outside] >= self.size]
        return places

    def _encrypt(self, values: np.ndarray) -> np.ndarray:
        low = values & ((1 << self._low_bits) - 1)
        high = values >> self._low_bits
        for number, table in enumerate(self._tables):
            if number % 2:
                low ^= table.take(high)
            else:
                high ^= table.take(low)
        high <<= self._low_bits
        high |= low
        return high


def _random_table(entries: int, bits: int, key: int) -> np.ndarray:
    """int64 [entries] of `bits` random bits: SplitMix64 (Steele, Lea and Flood, 2014) counted on from `key`."""
    x = np.arange(1, entries + 1, dtype=np.uint64) * np.uint64(_STEP) + np.uint64(key)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x >> np.uint64(64 - bits)).astype(np.int64)


def _mix_scalar(x: int) -> int:
    """One step of SplitMix64."""
    x = (x + _STEP) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
