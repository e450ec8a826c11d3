"""Meta-World's own scripted experts, kept quiet, and the noise that disturbs them."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from qseq.environments.metaworld_tasks import TASKS
from qseq.errors import RequestError

Array = npt.NDArray[np.float64]


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


class MetaWorldExpert:
    """The scripted expert of one task: state [39] -> action [4] within [-1, 1].

    Raises:
        RequestError: there is no such task, or metaworld is not installed.
    """

    def __init__(self, task: str) -> None:
        if task not in TASKS:
            raise RequestError(f"there is no Meta-World expert for task '{task}': expected one of {', '.join(TASKS)}")
        try:
            from metaworld.policies import ENV_POLICY_MAP
        except ImportError as error:
            raise RequestError('metaworld is not installed: pip install "qseq[metaworld]"') from error
        # Its gains are meant to saturate; the warning says so on every step.
        warnings.filterwarnings("ignore", message=r"Constant\(s\) may be too high")
        policies: dict[str, Any] = dict(ENV_POLICY_MAP)
        self._policy = policies[task]()

    def __call__(self, state: npt.NDArray[Any]) -> Array:
        action = self._policy.get_action(np.asarray(state, dtype=np.float64))
        return np.clip(np.asarray(action, dtype=np.float64), -1.0, 1.0)
