"""The order in which steps come: a permutation that is computed where it is needed, never stored.

A Feistel network over the smallest power of two that holds all steps; positions it sends outside are sent on until they
land inside (cycle walking; Black and Rogaway, "Ciphers with arbitrary finite domains", 2002). It needs no memory, so a
data set may have any number of steps, and it is the same on every machine and with every version of numpy.
"""

from __future__ import annotations

import numpy as np

_ROUNDS = 8
_MIN_BITS = 6
_MASK = (1 << 64) - 1


def permute(positions: np.ndarray, size: int, seed: int, epoch: int) -> np.ndarray:
    """Send each position to its place in the epoch's permutation of range(size).

    Args:
        positions: int64 [B], each in [0, size).
        size: how many things are permuted.
        seed, epoch: at least 0; every pair gives another permutation.

    Returns:
        int64 [B]
    """
    bits = max((size - 1).bit_length(), _MIN_BITS)
    keys = _round_keys(seed, epoch)
    result = _encrypt(positions.astype(np.uint64), bits, keys)
    outside = np.flatnonzero(result >= size)
    while len(outside):
        result[outside] = _encrypt(result[outside], bits, keys)
        outside = outside[result[outside] >= size]
    return result.astype(np.int64)


def _round_keys(seed: int, epoch: int) -> list[np.uint64]:
    state = _mix_scalar(seed & _MASK)
    state = _mix_scalar(state ^ (epoch & _MASK))
    keys = []
    for _ in range(_ROUNDS):
        state = _mix_scalar(state)
        keys.append(np.uint64(state))
    return keys


def _encrypt(values: np.ndarray, bits: int, keys: list[np.uint64]) -> np.ndarray:
    """One pass of an alternating Feistel network on numbers of `bits` bits: each round changes a half by the other."""
    low_bits = np.uint64(bits // 2)
    low_mask = np.uint64((1 << (bits // 2)) - 1)
    high_mask = np.uint64((1 << (bits - bits // 2)) - 1)
    low, high = values & low_mask, values >> low_bits
    for number, key in enumerate(keys):
        if number % 2:
            low = low ^ (_mix(high ^ key) & low_mask)
        else:
            high = high ^ (_mix(low ^ key) & high_mask)
    return (high << low_bits) | low


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood, 2014); wraps around at 2**64."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _mix_scalar(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)
