"""What makes a scripted expert's hand unsteady, and the checks of the arguments that say how unsteady."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from qseq.errors import RequestError

Array = npt.NDArray[np.float64]
Action = TypeVar("Action")


class CorrelatedNoise:
    """Noise of standard deviation `scale` whose neighbours in time are correlated (a first-order autoregression).

    Args:
        rng: the source of randomness.
        scale: standard deviation, in action units.
        correlation: of one step with the next, in [0, 1); 0 is white noise.
        size: number of action dimensions.
    """

    def __init__(self, rng: np.random.Generator, scale: float, correlation: float, size: int) -> None:
        self._rng = rng
        self._scale = scale
        self._correlation = correlation
        # Started from the stationary distribution, so the first steps are as noisy as the others.
        self._value: Array = rng.normal(0.0, scale, size)

    def __call__(self) -> Array:
        """The next sample, [size]."""
        value = self._value
        fresh = self._rng.normal(0.0, self._scale, value.shape)
        self._value = self._correlation * value + np.sqrt(1.0 - self._correlation**2) * fresh
        return value


class Fumbles(Generic[Action]):
    """Random actions, each held for some steps.

    Args:
        rng: the source of randomness.
        draw: one random action.
        probability: share of all steps that are random.
        steps: how long one is held.
        who: named in the error.

    Raises:
        RequestError: the probability is not in [0, 1], or `steps` is below 1.
    """

    def __init__(
        self, rng: np.random.Generator, draw: Callable[[], Action], *, probability: float, steps: int, who: str
    ) -> None:
        check_probability(who, "random_probability", probability)
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise RequestError(f"{who}: random_steps={steps!r}: expected a whole number, at least 1")
        self._rng = rng
        self._draw = draw
        # Of a step that is not inside a fumble, so that `probability` is the share of all steps.
        self._start_probability = probability / (steps * (1.0 - probability) + probability)
        self._steps = steps
        self._held: list[Action] = []

    def __call__(self) -> tuple[Action | None, Action]:
        """The action to take instead of the intended one, or None; and a random action, whether or not it is used.

        The numbers it draws do not depend on where fumbles fall, so neither does anything that is drawn later.
        """
        fresh, chance = self._draw(), self._rng.uniform()
        if not self._held and chance < self._start_probability:
            self._held = [fresh] * self._steps
        return (self._held.pop() if self._held else None), fresh


def check_probability(who: str, name: str, value: float) -> None:
    """Raise RequestError unless it is a number between 0 and 1."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value <= 1.0:
        raise RequestError(f"{who}: {name}={value!r}: expected a number between 0 and 1")
