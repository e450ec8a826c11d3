"""The argument `task` of an environment with several tasks."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence

from qseq.errors import RequestError


def checked_tasks(task: str | Sequence[str], known: Collection[str], family: str) -> tuple[str, ...]:
    """One name or several as a tuple.

    Raises:
        RequestError: not names, none, or one that is not among the known; says which are close.
    """
    if not isinstance(task, str | list | tuple):
        raise RequestError(f"env kwarg task={task!r}: expected the name of a {family} task, or a list of names")
    tasks = (task,) if isinstance(task, str) else tuple(task)
    if not tasks:
        raise RequestError(f"env kwarg task is an empty list: expected at least one {family} task")
    for name in tasks:
        if name not in known:
            close = difflib.get_close_matches(str(name), known, n=3)
            hint = f"did you mean {', '.join(close)}?" if close else f"expected one of {', '.join(known)}"
            raise RequestError(f"env kwarg task={name!r} is not a {family} task: {hint}")
    return tasks
