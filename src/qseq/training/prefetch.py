"""Gathers the next batches in one background thread while the model computes."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import torch


def to_device(batch: Any, device: torch.device) -> Any:
    """Move a tensor, anything else with a `.to(device)`, or a mapping, tuple or list of them."""
    if hasattr(batch, "to"):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(item, device) for key, item in batch.items()}
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(item, device) for item in batch)
    return batch


class Prefetcher:
    """Calls `load(index)` for each of `indices`, in order, at most `ahead` results ahead of `next()`.

    The order is that of `indices`, so the thread changes nothing but the time at which a batch is ready. An exception
    in `load` is raised by the `next()` whose batch it was.

    Attributes:
        seconds_waited: by `next()`, in all, for batches that were not ready.
    """

    def __init__(self, load: Callable[[int], Any], indices: Iterable[int], *, ahead: int = 2) -> None:
        self.seconds_waited = 0.0
        self._load = load
        self._indices = indices
        self._ready: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=ahead)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="batch-prefetch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        while self._thread.is_alive():  # it may wait for room: make some
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def next(self) -> Any:
        """The next batch."""
        asked = time.monotonic()
        batch, error = self._ready.get()
        self.seconds_waited += time.monotonic() - asked
        if error is not None:
            raise error
        return batch

    def _run(self) -> None:
        for index in self._indices:
            if self._closed.is_set():
                return
            try:
                item: tuple[Any, BaseException | None] = (self._load(index), None)
            except BaseException as error:  # handed to the training thread, whatever it is
                item = (None, error)
            self._ready.put(item)
            if item[1] is not None:
                return
