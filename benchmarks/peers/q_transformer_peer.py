"""Measure the PyPI package `q-transformer`. Runs in that package's own environment, not in qseq's.

`benchmarks/against_q_transformer.py` starts it and talks to it: one JSON request a line on standard input, one JSON
answer a line on standard output (what the package prints goes to standard error). `HANDLERS` says what it answers.

Two things the package imports are not wanted here, and left out before it is imported:
- torchvision, which fails to load beside a CPU build of torch: it is hidden, and `open_clip`, which needs it, is an
  empty module. Neither is used by what is measured.
- The T5 text encoder, which would be downloaded: in its place stands a class that says how wide its embeddings are
  (768, as in the package's README). The embeddings themselves are given, so no text encoder is timed on either side.
Models, losses, optimiser and training loop are the package's own and untouched.
"""

from __future__ import annotations

import sys
import tempfile
import types
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from answering import answer, timed, timed_step
from torch import Tensor
from torch.utils.data import Dataset

sys.path.append(str(Path(__file__).parents[1]))
sys.modules["torchvision"] = None  # type: ignore[assignment]
sys.modules["open_clip"] = types.ModuleType("open_clip")
sys.modules["open_clip"].tokenizer = None  # type: ignore[attr-defined]

from classifier_free_guidance_pytorch import classifier_free_guidance_pytorch as conditioning  # noqa: E402
from q_transformer import QLearner, QRoboticTransformer  # noqa: E402

from _machine import peak_bytes  # noqa: E402

EMBEDDING = 768


class GivenEmbeddings:
    """Stands where the package keeps its text encoder."""

    dim_latent = EMBEDDING

    def __init__(self, *_: Any, **__: Any) -> None: ...


conditioning.CONDITION_CONFIG["t5"] = GivenEmbeddings


class RandomWindows(Dataset):  # type: ignore[type-arg]
    """Windows of n steps in the layout that `QLearner` reads; made once, so that a step does not time the making."""

    def __init__(self, size: dict[str, Any], steps: int, count: int) -> None:
        random = torch.Generator().manual_seed(0)
        video = (3, size["frames"], size["pixels"], size["pixels"])
        done = torch.zeros(steps, dtype=torch.bool)
        self.windows = [
            (
                torch.randn(steps, EMBEDDING, generator=random),
                torch.rand(steps, *video, generator=random),
                torch.randint(0, size["action_bins"], (steps, size["num_actions"]), generator=random),
                torch.rand(*video, generator=random),
                torch.randn(EMBEDDING, generator=random),
                torch.zeros(steps),
                done,
            )
            for _ in range(count)
        ]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return self.windows[index]


class Side:
    """One model, and for training one learner."""

    def __init__(self) -> None:
        self.model: QRoboticTransformer | None = None
        self.learner: QLearner | None = None

    def build(self, size: dict[str, Any]) -> dict[str, Any]:
        torch.manual_seed(0)
        self.size = size
        self.model = QRoboticTransformer(
            vit={"num_classes": 1000, **size["vit"], "depth": tuple(size["vit"]["depth"])},
            num_actions=size["num_actions"],
            action_bins=size["action_bins"],
            depth=size["depth"],
            heads=size["heads"],
            dim_head=size["dim_head"],
            cond_drop_prob=0.2,
            dueling=True,
        )
        parts = {name: sum(p.numel() for p in part.parameters()) for name, part in self.model.named_children()}
        return {"parameters": {"all": sum(parts.values()), **parts}}

    def start_training(self, steps: int, batch: int, precision: str, **_: Any) -> dict[str, Any]:
        self.learner = QLearner(
            self.model,
            dataset=RandomWindows(self.size, steps, batch),
            batch_size=batch,
            num_train_steps=0,
            learning_rate=3e-4,
            n_step_q_learning=steps > 1,
            accelerator_kwargs={"cpu": True, "mixed_precision": "no" if precision == "fp32" else precision},
            checkpoint_folder=tempfile.mkdtemp(),
            checkpoint_every=10**9,
            log_every=10**9,
        )
        return {}

    def train(self) -> dict[str, Any]:
        """One step of the learner's own loop."""
        assert self.learner is not None
        self.learner.num_train_steps += 1
        return {**timed_step(self.learner), "peak_bytes": peak_bytes()}

    @torch.no_grad()
    def decode(self, batch: int, repeats: int) -> dict[str, Any]:
        """The action dimensions from an encoded state."""
        assert self.model is not None
        head = self.model.eval().q_head
        encoded = torch.randn(batch, self.size["frames"] * self.model.num_learned_tokens, self.model.vit.embed_dim)
        return {"seconds": [timed(lambda: head.get_optimal_actions(encoded)) for _ in range(repeats)]}

    @torch.no_grad()
    def act(self, repeats: int) -> dict[str, Any]:
        """A decision: the whole film is encoded, because nothing is kept from the one before."""
        assert self.model is not None
        self.model.eval()
        film = torch.rand(1, 3, self.size["frames"], self.size["pixels"], self.size["pixels"])
        text = torch.randn(1, EMBEDDING)
        return {
            "seconds": [timed(lambda: self.model.get_optimal_actions(film, text_embeds=text)) for _ in range(repeats)]
        }

    def flip(self, steps: int) -> dict[str, Any]:
        """Temporal-difference and total loss of one batch and seed, with its rewards, flipped, and with dones."""
        self.start_training(steps, 1, "fp32")
        assert self.learner is not None
        texts, states, actions, next_states, next_texts, rewards, dones = (
            part[None] for part in self.learner.dataloader.dataset[0]
        )

        def losses(rewards: Tensor, dones: Tensor) -> dict[str, float]:
            torch.manual_seed(1)
            with torch.no_grad():
                total, parts = self.learner.learn(
                    texts, states, actions, next_states, next_texts, rewards, dones, min_reward=0.0
                )
            return {"temporal_difference": float(parts.td_loss), "total": float(total)}

        final = dones.clone()
        final[:, -1] = True
        return {
            "rewards all 0": losses(rewards, dones),
            "rewards all 1": losses(1 - rewards, dones),
            "rewards all 0, last step done": losses(rewards, final),
        }

    def versions(self) -> dict[str, Any]:
        return {
            "versions": {name: version(name) for name in ("q-transformer", "torch", "x-transformers", "accelerate")},
            "python": sys.version.split()[0],
            "threads": torch.get_num_threads(),
        }


def main(arguments: Sequence[str]) -> None:
    torch.set_num_threads(int(arguments[0]))
    answer(Side())


if __name__ == "__main__":
    main(sys.argv[1:])
