"""The threads that decode and encode pictures; the decoders let go of Python's lock, so several work at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

_MOST = 8
_FEWEST_ITEMS = 4  # for which handing them to a thread is worth it
_threads = 0
_pool: tuple[int, int, ThreadPoolExecutor] | None = None


def set_decoding_threads(threads: int) -> None:
    """How many threads this process decodes with; 0: one for each core it may use, at most 8."""
    global _threads
    _threads = threads


def decoding_threads() -> int:
    """How many there are."""
    return _threads or min(_MOST, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def for_parts(work: Callable[[np.ndarray], None], items: np.ndarray) -> None:
    """Call `work` on consecutive parts of `items`, side by side; an error of any is raised when all have ended."""
    threads = min(decoding_threads(), len(items) // _FEWEST_ITEMS)
    if threads <= 1:
        work(items)
        return
    # One part a thread is begun by the caller itself: it would only wait.
    first, *others = np.array_split(items, threads)
    futures = [_executor(threads).submit(work, part) for part in others]
    try:
        work(first)
    finally:
        errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        raise error


def _executor(threads: int) -> ThreadPoolExecutor:
    """The pool; a forked process has the object and not its threads, so it makes its own."""
    global _pool
    wanted = max(threads, decoding_threads()) - 1
    if _pool is None or _pool[0] != os.getpid() or _pool[1] < wanted:
        _pool = (os.getpid(), wanted, ThreadPoolExecutor(wanted, thread_name_prefix="pictures"))
    return _pool[2]
