"""Meta-World's own scripted experts, kept quiet."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from qseq.environments.metaworld_tasks import TASKS
from qseq.errors import RequestError

Array = npt.NDArray[np.float64]


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
