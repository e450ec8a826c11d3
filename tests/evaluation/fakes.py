"""Policies without a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qseq.policies import Policy


class Reflex(Policy):
    """CartPole: push to where the pole leans; remembers which environments it was asked about."""

    kind = "reflex"

    def __init__(
        self, fields: dict[str, tuple[int, ...]] | None = None, action_space: dict[str, Any] | None = None
    ) -> None:
        self._fields = fields or {"state": (4,)}
        self._space = action_space or {"type": "discrete", "n": 2, "start": 0}
        self.seen: set[int] = set()
        self.texts: set[str] = set()

    @property
    def observation_fields(self) -> dict[str, tuple[int, ...]]:
        return self._fields

    @property
    def action_space(self) -> dict[str, Any]:
        return self._space

    def act(
        self,
        observation: Mapping[str, Any] | np.ndarray,
        instruction: str | Sequence[str] | None = None,
        *,
        environment_ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        assert isinstance(observation, Mapping)
        assert environment_ids is not None
        self.seen.update(environment_ids)
        self.texts.update(instruction or [])
        state = observation["state"]
        assert state.shape == (len(environment_ids), 4)
        return (state[:, 2] + 0.3 * state[:, 3] > 0).astype(np.int64)

    def reset(self, environment_ids: Sequence[int] | None = None) -> None:
        pass

    def seed(self, seed: int) -> None:
        pass

    def save_pretrained(self, folder: str | Path) -> None:
        raise NotImplementedError

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Policy:
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}


class Clumsy:
    """A scripted policy that acts out of bounds at its third step."""

    def __init__(self, env: Any, rng: np.random.Generator, size: float = 100.0) -> None:
        self.size, self.step = size, 0

    def reset(self, observation: Any, info: Any) -> None:
        pass

    def act(self, observation: Any) -> np.ndarray:
        self.step += 1
        return np.array([self.size if self.step == 3 else 0.0])


class Slow:
    """Random, and slow enough to be killed half-way."""

    def __init__(self, env: Any, rng: np.random.Generator) -> None:
        self.rng = rng

    def reset(self, observation: Any, info: Any) -> None:
        pass

    def act(self, observation: Any) -> np.ndarray:
        import time

        time.sleep(0.001)
        return self.rng.uniform(-1, 1, 1)


class Impatient(Slow):
    """Gives up after five steps."""

    steps = 0

    def act(self, observation: Any) -> np.ndarray:
        self.steps += 1
        return self.rng.uniform(-1, 1, 1)

    def done(self) -> bool:
        return self.steps >= 5
