"""Ctrl-C asks the loop to stop at the end of its step, where everything can be saved whole."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopRequest:
    """While entered, the first SIGINT or SIGTERM only sets `signal`; a second one interrupts at once.

    Outside the main thread, where Python allows no handlers, signals keep their usual effect.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, previous in self._previous.items():
            signal.signal(number, previous)

    def raise_now(self) -> None:
        """End the program in the way the signal asked for: KeyboardInterrupt for Ctrl-C, else exit status 128 + n."""
        if self.signal is not None and self.signal != signal.SIGINT:
            raise SystemExit(128 + self.signal)
        raise KeyboardInterrupt

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            self.raise_now()
        self.signal = number
