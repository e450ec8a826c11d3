"""Returns to go of whole columns at once."""

from __future__ import annotations

import numpy as np

from qseq.errors import RequestError

_LONG = 2048
"""Episodes with more steps than this are scanned in segments of this length."""


def returns_to_go(
    rewards: np.ndarray,
    lengths: np.ndarray,
    discount: float,
    *,
    final_values: np.ndarray | None = None,
) -> np.ndarray:
    """Discounted sum of the rewards from each step to the end of its episode.

        G[t] = r[t] + discount * G[t+1],   G[T] = final value of the episode

    The recursion runs backwards over all episodes together. (Dividing cumulative sums by powers of the discount would
    be shorter, but overflows for long episodes and loses all digits for small discounts.)

    Args:
        rewards: [steps], the episodes one after the other.
        lengths: [episodes], their number of steps; they sum to `steps`.
        discount: in [0, 1].
        final_values: [episodes], what is still to come after the last step; 0 if not given.

    Returns:
        float32 [steps]; summed in float64.

    Raises:
        RequestError: the discount is outside [0, 1] or the lengths do not add up.
    """
    if not 0.0 <= discount <= 1.0:
        raise RequestError(f"discount: found {discount}, expected a number in [0, 1]")
    lengths = np.asarray(lengths, dtype=np.int64)
    if lengths.sum() != len(rewards):
        raise RequestError(f"lengths: found a sum of {lengths.sum()}, expected {len(rewards)} (the rewards given)")
    carry = np.zeros(len(lengths)) if final_values is None else np.array(final_values, dtype=np.float64)
    if lengths.max(initial=0) <= _LONG:
        return _scan(rewards, lengths, discount, carry).astype(np.float32)
    return _scan_long(rewards, lengths, discount, carry).astype(np.float32)


def _scan(rewards: np.ndarray, lengths: np.ndarray, discount: float, carry: np.ndarray) -> np.ndarray:
    """float64 [steps]; one turn of the loop handles one step of every episode that still has one."""
    result = np.empty(len(rewards))
    order = np.argsort(-lengths, kind="stable")
    counts, last, values = lengths[order], (np.cumsum(lengths) - 1)[order], carry[order]
    for back in range(int(lengths.max(initial=0))):
        active = np.count_nonzero(counts > back)
        rows = last[:active] - back
        values[:active] = rewards[rows] + discount * values[:active]
        result[rows] = values[:active]
    return result


def _scan_long(rewards: np.ndarray, lengths: np.ndarray, discount: float, carry: np.ndarray) -> np.ndarray:
    """Cut long episodes into segments, scan all segments together, then pass what follows back from segment to segment.

    Segments are counted from an episode's first step; every factor is at most 1, so nothing overflows.
    """
    num_segments = -(-lengths // _LONG)
    owner = np.repeat(np.arange(len(lengths)), num_segments)
    number = np.arange(len(owner)) - (np.cumsum(num_segments) - num_segments)[owner]
    sizes = np.minimum(lengths[owner] - number * _LONG, _LONG)
    result = _scan(rewards, sizes, discount, np.zeros(len(sizes)))
    ends = np.cumsum(sizes)
    powers = discount ** np.arange(_LONG, 0, -1, dtype=np.float64)
    for segment in range(len(sizes) - 1, -1, -1):
        end, size = ends[segment], sizes[segment]
        is_last = segment + 1 == len(sizes) or owner[segment + 1] != owner[segment]
        following = carry[owner[segment]] if is_last else result[end]
        result[end - size : end] += powers[_LONG - size :] * following
    return result
