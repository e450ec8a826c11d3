"""Requests that wait at the same time are decided together, in a thread of their own."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from qseq.errors import QseqError
from qseq.serving.engine import Answer, Engine, Work

Watch = Callable[[Sequence[Work]], Collection[int]]
"""Which of the clients of a batch are looked at."""


@dataclass
class _Waiting:
    work: Work
    future: asyncio.Future[tuple[Answer, float]]
    since: float


class Batcher:
    """Collects requests while the last batch is computed, and a little longer if it pays.

    Args:
        max_wait: seconds that a request waits for others; not at all when all clients wait already.
        clients: how many there are.
        watch: see `Watch`.
    """

    def __init__(
        self, engine: Engine, *, max_batch: int, max_wait: float, clients: Callable[[], int], watch: Watch
    ) -> None:
        self.engine = engine
        self._max_batch = max_batch
        self._max_wait = max_wait
        self._clients = clients
        self._watch = watch
        self._waiting: deque[_Waiting] = deque()
        self._enough = asyncio.Event()
        self._wanted = 1
        # One thread: policies are not made for several, and batches are what shares the processor well.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="policy")
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._run())

    async def decide(self, work: Work) -> tuple[Answer, float]:
        """The answer, and the seconds the request waited before it was looked at.

        Raises:
            QseqError: what is wrong with the request, or with the policy.
        """
        future: asyncio.Future[tuple[Answer, float]] = self._loop.create_future()
        self._waiting.append(_Waiting(work, future, time.perf_counter()))
        if len(self._waiting) >= self._wanted:
            self._enough.set()
        return await future

    async def between_batches(self, function: Callable[[], None]) -> None:
        """Call something in the thread that decides, when it does not."""
        await self._loop.run_in_executor(self._thread, function)

    def forget(self, client: int) -> None:
        """The client is gone, and has no request waiting."""
        self._thread.submit(self.engine.forget, client)

    async def close(self) -> None:
        """Decide nothing more."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        for waiting in self._waiting:
            waiting.future.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self) -> None:
        while True:
            await self._gather()
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self._waiting)))]
            batch = [waiting for waiting in batch if not waiting.future.done()]  # of clients that are gone
            works = [waiting.work for waiting in batch]
            start = time.perf_counter()
            answers: Sequence[Answer | QseqError]
            try:
                watched = self._watch(works)
                answers = await self._loop.run_in_executor(self._thread, self.engine.decide, works, watched)
            except asyncio.CancelledError:
                for waiting in batch:
                    waiting.future.cancel()
                raise
            except Exception as error:  # whatever it was, the next batch must be decided
                answers = [QseqError(f"the server failed ({type(error).__name__})")] * len(batch)
            for waiting, answer in zip(batch, answers, strict=True):
                if waiting.future.done():
                    continue
                if isinstance(answer, QseqError):
                    waiting.future.set_exception(answer)
                else:
                    waiting.future.set_result((answer, start - waiting.since))

    async def _gather(self) -> None:
        """Returns when there is a batch worth deciding."""
        if not self._waiting:
            await self._until(1)
        wanted = min(self._max_batch, self._clients())
        left = self._waiting[0].since + self._max_wait - time.perf_counter()
        if len(self._waiting) < wanted and left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._until(wanted), left)

    async def _until(self, wanted: int) -> None:
        """So many wait. Nothing wakes up for those that come before."""
        self._wanted = wanted
        self._enough.clear()
        await self._enough.wait()
