"""How a side of a comparison answers: one JSON request a line on standard input, one JSON answer a line."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

HANDLERS = ("versions", "build", "start_training", "train", "decode", "act", "flip")


def timed(call: Callable[[], Any]) -> float:
    """Seconds that the call takes."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def timed_step(call: Callable[[], Any]) -> dict[str, float]:
    """Seconds that the call takes, and those of them that the processor worked on it."""
    worked = time.process_time()
    seconds = timed(call)
    return {"seconds": seconds, "processor_seconds": time.process_time() - worked}


def answer(side: Any) -> None:
    """Call the side's methods as asked, until the input ends; what they print goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        name = request.pop("do")
        if name not in HANDLERS:
            raise ValueError(f"do: found '{name}', expected one of {HANDLERS}")
        answers.write(json.dumps(getattr(side, name)(**request)) + "\n")
        answers.flush()
