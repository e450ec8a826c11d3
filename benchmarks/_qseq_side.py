"""Measure qseq's `QRoboticTransformer`; the counterpart of `peers/q_transformer_peer.py`, with the same requests.

`benchmarks/against_q_transformer.py` starts it: one JSON request a line on standard input, one JSON answer a line on
standard output. Nothing is simplified for the measurement: windows of uint8 frames are cut from a store, and a step is
the trainer's.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _machine import peak_bytes
from peers.answering import answer, timed, timed_step
from qseq import Episode, EpisodeStore, QLearner, QRoboticTransformer, StoreWriter
from qseq.networks.vision import VisionConfig
from qseq.robot.description import describe_model
from qseq.robot.objective_config import QObjectiveConfig
from qseq.robot.policy import QTransformerPolicy
from qseq.training import Trainer

EPISODES, STEPS = 2, 12
TEXT = "pick the red block up"


class Side:
    """One model, and for training one trainer."""

    def build(
        self,
        size: dict[str, Any],
        bootstrap: str = "max",
        checkpointing: bool = False,
        policy: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """`policy`: how it is loaded to act."""
        torch.manual_seed(0)
        self.size = size
        # The weight 1 and the squared error are the other package's too.
        self.objective = QObjectiveConfig(
            bootstrap="max" if bootstrap == "max" else "expectile",
            conservative_weight=1.0,
            value_loss="mse",
        )
        self.model = QRoboticTransformer(
            vit={"num_classes": 1000, "heads": 8, **size["vit"]},
            vision=VisionConfig(checkpoint_activations=checkpointing),
            num_actions=size["num_actions"],
            action_bins=size["action_bins"],
            dim=size["vit"]["dim"] * 2 ** (len(size["vit"]["depth"]) - 1),
            depth=size["depth"],
            heads=size["heads"],
            dim_head=size["dim_head"],
            q_head_attn_kwargs={"attn_depth": 2, "attn_heads": 8, "attn_dim_head": 64},
            weight_tie_action_bin_embed=True,
            dueling=True,
            cond_drop_prob=0.2,
            text_embed_dim=768,
            value_folds=self.objective.state_value_networks,
            history=size["frames"],
        )
        self.action_space = {
            "type": "box",
            "low": [-1.0] * size["num_actions"],
            "high": [1.0] * size["num_actions"],
            "shape": [size["num_actions"]],
            "dtype": "float32",
        }
        self.policy_options = policy or {}
        self.policy: QTransformerPolicy | None = None
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()}
        return {"parameters": {"all": sum(parts.values()), **parts}}

    def start_training(self, steps: int, batch: int, precision: str) -> dict[str, Any]:
        self.trainer = self._trainer(steps, batch, precision)
        self.trainer._prepare()
        self.step = 0
        return {}

    def train(self) -> dict[str, Any]:
        """One step of the trainer: reading the windows, forward, targets, backward, optimiser, moving average."""

        class Feed:
            def next(_) -> Any:  # noqa: N805
                return self.trainer._load(self.step)

        self.step += 1
        seconds = timed_step(lambda: self.trainer._step(self.step, Feed()))  # type: ignore[arg-type]
        return {**seconds, "peak_bytes": peak_bytes()}

    def decode(self, batch: int, repeats: int) -> dict[str, Any]:
        """The action dimensions from an encoded state."""
        policy = self._policy()
        context = torch.randn(batch, 1 + self.size["frames"] * 8, self.model.config.dim)
        with torch.inference_mode():
            return {"seconds": [timed(lambda: policy.choose(policy.network.decoder, context)) for _ in range(repeats)]}

    def act(self, repeats: int) -> dict[str, Any]:
        """Decisions inside a running episode: what earlier frames gave is remembered."""
        policy, random = self._policy(), np.random.default_rng(0)
        shape = (3, self.size["pixels"], self.size["pixels"])

        def decide() -> float:
            frame = {"image": random.integers(0, 256, shape, dtype=np.uint8)}
            return timed(lambda: policy.act(frame, TEXT, environment_ids=None))

        policy.reset()
        for _ in range(self.size["frames"]):
            decide()
        return {"seconds": [decide() for _ in range(repeats)]}

    def flip(self, steps: int) -> dict[str, Any]:
        """Temporal-difference and total loss of one batch and seed, with its rewards, flipped, and with a terminal.

        Without the Monte-Carlo bound, which is read from the rewards beforehand: only the backup shows them.
        """
        self.objective = replace(self.objective, monte_carlo_bound=False)
        self.start_training(steps, 1, "fp32")
        batch = self.trainer._load(0)
        batch = replace(
            batch,
            rewards=torch.zeros_like(batch.rewards),
            bootstrap_terminated=torch.zeros_like(batch.bootstrap_terminated),
        )

        def losses(**changes: torch.Tensor) -> dict[str, float]:
            torch.manual_seed(1)
            with torch.no_grad():
                total, terms = self.trainer.learner(replace(batch, **changes), {})
            return {"temporal_difference": float(terms["temporal_difference"]), "total": float(total)}

        return {
            "rewards all 0": losses(),
            "rewards all 1": losses(rewards=torch.ones_like(batch.rewards)),
            "rewards all 0, last step done": losses(bootstrap_terminated=torch.ones_like(batch.bootstrap_terminated)),
        }

    def versions(self) -> dict[str, Any]:
        return {
            "versions": {name: version(name) for name in ("qseq", "torch", "accelerate")},
            "python": sys.version.split()[0],
            "threads": torch.get_num_threads(),
        }

    def _policy(self) -> QTransformerPolicy:
        """The same one each time: what is compiled is compiled once."""
        if self.policy is None:
            self.policy = QTransformerPolicy(
                self.model, describe_model(self.model, self.action_space), **self.policy_options
            )
        return self.policy

    def _trainer(self, steps: int, batch: int, precision: str) -> Trainer:
        objective = replace(self.objective, bootstrap_steps=(steps,))
        return QLearner(
            self.model,
            dataset=EpisodeStore.open(self._store()),
            batch_size=batch,
            num_train_steps=10**6,
            learning_rate=3e-4,
            objective=objective,
            training_kwargs={"precision": precision},
            accelerator_kwargs={"cpu": True},
        ).trainer

    def _store(self) -> Path:
        """A few episodes of random frames."""
        folder, random = Path(tempfile.mkdtemp()) / "store", np.random.default_rng(0)
        shape = (3, self.size["pixels"], self.size["pixels"])
        with StoreWriter(folder, action_space=self.action_space) as writer:
            for _ in range(EPISODES):
                writer.add(
                    Episode(
                        observations={"image": random.integers(0, 256, (STEPS + 1, *shape), dtype=np.uint8)},
                        actions=random.uniform(-1, 1, (STEPS, self.size["num_actions"])).astype(np.float32),
                        rewards=np.zeros(STEPS, np.float32),
                        terminated=False,
                        truncated=True,
                        success=False,
                        instruction=TEXT,
                    )
                )
        return folder


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(int(arguments[0]))
    answer(Side())


if __name__ == "__main__":
    main(sys.argv[1:])
