"""Progress on stderr: a bar with rate and time left in a terminal, a plain line every ten seconds elsewhere.

`QSEQ_PROGRESS=0` silences both.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import Task, TaskID
    from rich.text import Text

T = TypeVar("T")

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_REDRAWS = 0.1


class _Display(Protocol):
    def show(self, done: int, text: str) -> None: ...
    def close(self, done: int, text: str) -> None: ...


class Progress:
    """Counts units of work.

    >>> with Progress("training", total=100) as progress:
    ...     progress.advance(text="loss 0.5")
    """

    def __init__(
        self, description: str, total: int | None = None, *, unit: str = "steps", done: int = 0, enabled: bool = True
    ) -> None:
        """`done` units are finished already (a resumed run); they do not count for the rate."""
        self.description = description
        self.total = total
        self.unit = unit
        self.done = done
        self.text = ""
        self._started_with = done
        self._started_at = 0.0
        self._shown_at = 0.0
        self._enabled = enabled and os.environ.get("QSEQ_PROGRESS", "1") != "0"
        self._display: _Display | None = None

    def __enter__(self) -> Self:
        self._started_at = time.monotonic()
        if self._enabled:
            self._display = _Bar(self) if sys.stderr.isatty() else _Lines(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._display is not None:
            self._display.close(self.done, self.text)
            self._display = None

    def advance(self, units: int = 1, text: str | None = None) -> None:
        """Count `units` more; `text` (a loss, a success rate) is shown until the next one is given."""
        self.done += units
        if text is not None:
            self.text = text
        if self._display is None:
            return
        now = time.monotonic()
        if now - self._shown_at >= SECONDS_BETWEEN_REDRAWS:  # drawing is dearer than the work it counts
            self._shown_at = now
            self._display.show(self.done, self.text)

    @property
    def rate(self) -> float:
        """Units a second since the start, 0 before the first."""
        elapsed = time.monotonic() - self._started_at
        return (self.done - self._started_with) / elapsed if elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until `total` at the present rate, None while that is unknown."""
        if self.total is None or self.rate == 0:
            return None
        return max(self.total - self.done, 0) / self.rate


def track(iterable: Iterable[T], description: str, total: int | None = None, *, unit: str = "steps") -> Iterator[T]:
    """Yield the items of `iterable`, showing progress; `total` defaults to its length where it has one."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(description, total, unit=unit) as progress:
        for item in iterable:
            yield item
            progress.advance()


class _Lines:
    """Plain lines, for logs and pipes."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._printed_at = time.monotonic()

    def show(self, done: int, text: str) -> None:
        if time.monotonic() - self._printed_at >= SECONDS_BETWEEN_LINES:
            self._print(done, text)

    def close(self, done: int, text: str) -> None:
        self._print(done, text)

    def _print(self, done: int, text: str) -> None:
        progress = self._progress
        total = "" if progress.total is None else f"/{progress.total}"
        left = progress.seconds_left
        parts = [f"{done}{total} {progress.unit}", f"{progress.rate:.1f} {progress.unit}/s"]
        if left:
            parts.append(f"{format_seconds(left)} left")
        if text:
            parts.append(text)
        print(f"{progress.description}: {', '.join(parts)}", file=sys.stderr, flush=True)
        self._printed_at = time.monotonic()


class _Bar:
    """A bar that redraws itself, by rich."""

    def __init__(self, progress: Progress) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress
        from rich.text import Text

        class RateColumn(ProgressColumn):
            def render(self, task: Task) -> Text:
                return Text(f"{progress.rate:.1f} {progress.unit}/s", style="progress.data.speed")

        self._rich: RichProgress = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            RateColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}", markup=False),
            console=Console(stderr=True),
        )
        self._rich.start()
        self._task: TaskID = self._rich.add_task(
            progress.description, total=progress.total, completed=progress.done, text=""
        )

    def show(self, done: int, text: str) -> None:
        self._rich.update(self._task, completed=done, text=text)

    def close(self, done: int, text: str) -> None:
        self.show(done, text)
        self._rich.stop()


def format_seconds(seconds: float) -> str:
    """12 -> "12s", 754 -> "12m34s", 7440 -> "2h04m"."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"
