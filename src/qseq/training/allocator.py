"""Freed memory stays with the process while it trains.

Each step frees what it needed and the next one asks for the same again. The C library of Linux (glibc) gives such
large pieces back to the system in between, which fills every page with zeros before it hands it out again: some 9,000
page faults a step, a tenth of the time, for a small camera model.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of malloc.h
_NEVER = 2**31 - 1  # the largest number mallopt takes


def keep_freed_memory() -> bool:
    """Tell the C library so, for this process and from now on; whether it could be told (glibc only).

    Memory in use does not change, and what was freed is used again first: the process stays as large as it was at its
    largest.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # another C library
        return False
    # Both: a piece above the second threshold would be mapped, and unmapped when it is freed, on its own.
    return all(mallopt(option, _NEVER) == 1 for option in (_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD))
