"""Evaluate one trained cell of the learning benchmark; prints one line of JSON.

python benchmarks/_evaluate_cell.py RUN TASK DECODING PEER(0|1)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _methods import EVALUATION_EPISODES, EVALUATION_SEED
from qseq import Policy, evaluate, load_policy
from qseq.policies import Observation

ENVIRONMENT = "qseq.environments.metaworld:qseq/metaworld-v3"
BOX = {"type": "box", "low": [-1.0] * 4, "high": [1.0] * 4, "shape": [4], "dtype": "float32"}


class PeerPolicy(Policy):
    """A policy that d3rlpy exported as TorchScript."""

    kind = "d3rlpy"

    def __init__(self, path: Path) -> None:
        self._module = torch.jit.load(str(path))

    @property
    def observation_fields(self) -> dict[str, tuple[int, ...]]:
        return {"state": (39,)}

    @property
    def action_space(self) -> dict[str, Any]:
        return BOX

    def act(
        self,
        observation: Observation,
        instruction: str | Sequence[str] | None = None,
        *,
        environment_ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        states = torch.as_tensor(np.asarray(observation["state"] if isinstance(observation, dict) else observation))
        with torch.no_grad():
            actions: np.ndarray = self._module(states.float()).clamp(-1, 1).numpy()
        return actions

    def reset(self, environment_ids: Sequence[int] | None = None) -> None: ...

    def seed(self, seed: int) -> None: ...

    def save_pretrained(self, folder: str | Path) -> None:
        raise NotImplementedError("a peer's policy is only evaluated")

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> PeerPolicy:
        return cls(Path(source) / "policy.pt")

    def describe(self) -> dict[str, Any]:
        return {"kind": self.kind}


def main() -> None:
    run, task, decoding, peer = sys.argv[1:]
    torch.set_num_threads(1)
    options = {} if decoding == "greedy" else {"decoding": decoding}
    policy = PeerPolicy.from_pretrained(run) if peer == "1" else load_policy(run, **options)
    result = evaluate(
        policy, ENVIRONMENT, {"task": task}, episodes=EVALUATION_EPISODES, seed=EVALUATION_SEED, num_envs=50
    ).to_json()
    print(
        json.dumps(
            {
                "success_rate": result["success_rate"],
                "success_ci95": result["success_ci95"],
                "mean_length": float(np.mean([row["length"] for row in result["rows"]])) if "rows" in result else None,
            }
        )
    )


if __name__ == "__main__":
    main()
