"""Which frames and steps of an episode a training window holds."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from qseq.errors import RequestError
from qseq.observations import frames_back


@dataclass(frozen=True, kw_only=True)
class WindowSpec:
    """The shape of a window cut at step t.

    Attributes:
        history: F, frames of one observation: those at t-F+1 .. t.
        bootstrap_steps: the horizons m, ascending: the observation at t+m is read for each. May be empty.
        num_action_steps: N, actions and rewards from t on; the largest horizon (or 1) if not given.
        first_frame: the oldest of the F frames is the episode's first, not that at t-F+1. Needs F of at least 2.

    Near the end of an episode of T steps the observation of horizon m is the one at min(t+m, T), with the frames that
    really came before it. So the frames of a horizon above 1 are its own, and shared with no other: which of them
    coincide depends on how far the end is. Those of horizon 1 never meet the end (t < T) and are shared with those
    at t.
    """

    history: int = 1
    bootstrap_steps: tuple[int, ...] = (1,)
    num_action_steps: int = 0
    first_frame: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bootstrap_steps", tuple(self.bootstrap_steps))
        if self.history < 1:
            raise RequestError(f"history: found {self.history}, expected at least 1")
        if self.first_frame and self.history < 2:
            raise RequestError(f"history: found {self.history}, expected at least 2 with the first frame among them")
        steps = self.bootstrap_steps
        if any(m < 1 for m in steps) or list(steps) != sorted(set(steps)):
            raise RequestError(f"bootstrap_steps: found {list(steps)}, expected ascending numbers of at least 1")
        longest = max(steps, default=1)
        if self.num_action_steps == 0:
            object.__setattr__(self, "num_action_steps", longest)
        if self.num_action_steps < longest:
            raise RequestError(
                f"num_action_steps: found {self.num_action_steps}, expected at least {longest} (the longest horizon)"
            )

    @cached_property
    def frame_positions(self) -> tuple[tuple[int, int], ...]:
        """U pairs (m, f): the frame in row max(min(t+m, T) - f, 0) of the episode, each read once."""
        back = frames_back(self.history, self.first_frame)
        positions = [(0, f) for f in back]
        for m in self.bootstrap_steps:
            # At horizon 1 only the newest frame is new.
            positions += [(m, f) for f in (back if m > 1 else (0,))]
        return tuple(positions)

    @property
    def frame_offsets(self) -> tuple[int, ...]:
        """m - f of each of the U frames: where it lies from t, away from the episode's ends."""
        return tuple(m - f for m, f in self.frame_positions)

    @property
    def num_frames(self) -> int:
        """U."""
        return len(self.frame_positions)

    def observation_frames(self) -> tuple[int, ...]:
        """The F indices into U of the observation at t, oldest first."""
        return tuple(range(self.history))

    def bootstrap_frames(self, index: int) -> tuple[int, ...]:
        """The F indices into U of the observation at t + bootstrap_steps[index], oldest first."""
        m = self.bootstrap_steps[index]
        if m == 1:
            newest = self.frame_positions.index((1, 0))
            return (0, *range(2, self.history), newest) if self.first_frame else (*range(1, self.history), newest)
        return tuple(self.frame_positions.index((m, f)) for f in frames_back(self.history, self.first_frame))
