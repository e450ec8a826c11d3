"""What every format that qseq reads offers, and the account of what it could not keep."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from qseq.episodes.episode import Episode

FINAL_OBSERVATION = "final_observation"
"""Metadata key: "repeated" where a recording has no observation after its last action, so the one before it stands
there again."""


class Losses:
    """What could not be kept as it was, gathered while episodes are read; as JSON it survives an interruption."""

    def __init__(self, state: Mapping[str, Any] | None = None) -> None:
        state = state or {}
        self._names: dict[str, set[str]] = {what: set(names) for what, names in state.get("names", {}).items()}
        self._counts: dict[str, int] = dict(state.get("counts", {}))

    def name(self, what: str, name: str) -> None:
        """One line for all names: "`what`: a, b"."""
        self._names.setdefault(what, set()).add(name)

    def count(self, what: str, times: int = 1) -> None:
        """One line for all times: `what` with "{}" replaced by their number."""
        if times:
            self._counts[what] = self._counts.get(what, 0) + int(times)

    def lines(self) -> list[str]:
        """Notes for the user, one line each."""
        named = [f"{what}: {', '.join(sorted(names))}" for what, names in self._names.items()]
        return named + [what.format(times) for what, times in self._counts.items()]

    def to_json(self) -> dict[str, Any]:
        return {"names": {what: sorted(names) for what, names in self._names.items()}, "counts": self._counts}


class EpisodeReader(Protocol):
    """A data set in another format, read one episode at a time.

    Attributes:
        name: for progress and messages.
        num_episodes: how many there are.
        action_space: JSON form, see `qseq.episodes.action_space`.
        env: JSON description of the environment, None if unknown.
        dimension_names: field name, or "action" -> a name for each of its dimensions, where they are known.
        losses: replaced by those of an interrupted conversion when it goes on.
    """

    name: str
    num_episodes: int
    action_space: dict[str, Any]
    env: dict[str, Any] | None
    dimension_names: dict[str, list[str]]
    losses: Losses

    def episodes(self, first: int = 0) -> Iterator[Episode]:
        """Episodes `first`, `first` + 1, ..., always the same in the same order.

        Raises:
            DataError: one is damaged or not valid.
        """
        ...
