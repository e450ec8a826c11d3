"""A Q-Transformer of the paper's size: one training step, its memory, and one decision.

    python benchmarks/paper_size.py [--out benchmarks/results/paper_size.json] [--threads 1] [--batch 2]

The paper (Chebotar et al. 2023, section 5) reads six frames through an EfficientNet-B3 of 300x300 pixels into a
transformer of 8 layers, and decides 8 dimensions of 256 bins. The tower is built from a description of EfficientNet-B3
(Tan and Le 2019: width 1.2, depth 1.4) written to a folder, with random weights: nothing is downloaded. Frames come
from a store of random images; the step is the trainer's, with activation checkpointing.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import EfficientNetConfig

from _machine import peak_bytes, write_report
from qseq import Episode, EpisodeStore, EpisodeView, StoreWriter
from qseq.configuration import load_config
from qseq.policies import TokenPolicySpec
from qseq.robot.algorithm import make_trainer
from qseq.robot.config import QTransformerConfig
from qseq.robot.policy import QTransformerPolicy

PIXELS, FRAMES, DIMENSIONS, BINS, STEPS = 300, 6, 8, 256, 8
TEXT = "pick the red block up"
SPACE = {
    "type": "box",
    "low": [-1.0] * DIMENSIONS,
    "high": [1.0] * DIMENSIONS,
    "shape": [DIMENSIONS],
    "dtype": "float32",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/paper_size.json"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=2)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        result = measure(Path(folder), arguments.batch, arguments.repeats)
    result = {
        "machine": machine(arguments.threads),
        "versions": {name: version(name) for name in ("torch", "transformers", "qseq")},
        **result,
    }
    write_report(result, arguments.out)


def measure(folder: Path, batch: int, repeats: int) -> dict[str, Any]:
    tower = folder / "efficientnet-b3"
    EfficientNetConfig(
        width_coefficient=1.2, depth_coefficient=1.4, image_size=PIXELS, hidden_dim=1536, dropout_rate=0.3
    ).save_pretrained(tower)
    config = load_config(
        QTransformerConfig,
        overrides=[
            f"network.vision.tower=transformers:{tower}",
            "network.vision.checkpoint_activations=true",
            "network.dim=512",
            "network.encoder_depth=8",
            "network.heads=8",
            "network.dim_head=64",
            "network.decoder_heads=8",
            "network.decoder_dim_head=64",
            "network.text.film=true",
            f"actions.num_bins={BINS}",
            f"data.history={FRAMES}",
            "objective.bootstrap=max",
            "objective.bootstrap_steps=[1]",
            f"training.batch_size={batch}",
        ],
    )
    trainer = make_trainer(config, write_episodes(folder / "store"), run=folder / "run", seed=0)
    trainer._prepare()
    before = peak_bytes()

    class Feed:
        def next(self) -> Any:
            return trainer._load(0)

    seconds = []
    for repeat in range(repeats + 1):
        started = time.perf_counter()
        trainer._step(repeat + 1, Feed())  # type: ignore[arg-type]
        seconds.append(time.perf_counter() - started)
    seconds = seconds[1:]  # the first one warms up
    training = {
        "batch": batch,
        "windows_per_second": batch / statistics.median(seconds),
        "seconds_per_step": seconds,
        "peak_bytes": peak_bytes(),
        "peak_bytes_before_the_first_step": before,
    }
    network = trainer.model
    parameters = {name: sum(p.numel() for p in part.parameters()) for name, part in network.named_children()}
    return {
        "parameters": sum(parameters.values()),
        "parameters_by_part": {name: count for name, count in parameters.items() if count},
        "parameters_of_the_tower": sum(p.numel() for p in network.encoder.encoders[0].tower.parameters()),
        "training": training,
        "deciding": deciding(trainer, config),
    }


def deciding(trainer: Any, config: QTransformerConfig) -> dict[str, Any]:
    """Seconds of decisions inside a running episode, where one frame is new, and of its first."""
    spec = TokenPolicySpec(
        network=trainer.model.config,
        fields={"image": (3, PIXELS, PIXELS)},
        history=FRAMES,
        tokenizer=trainer.objective.tokenizer,
        action_space=SPACE,
        extra={"value": config.objective.value_arguments(), "initial_value": 0.05, "value_folds": 0},
    )
    policy = QTransformerPolicy(trainer.model, spec)
    random = np.random.default_rng(0)
    seconds = []
    for _ in range(FRAMES + 4):
        frame = {"image": random.integers(0, 256, (3, PIXELS, PIXELS), dtype=np.uint8)}
        started = time.perf_counter()
        action = policy.act(frame, TEXT)
        seconds.append(time.perf_counter() - started)
    if action.shape != (DIMENSIONS,) or not np.isfinite(action).all():
        raise RuntimeError(f"decoded {action}, expected {DIMENSIONS} numbers")
    return {"first_seconds": seconds[0], "seconds": statistics.median(seconds[FRAMES:]), "repeats": 4}


def write_episodes(path: Path) -> EpisodeView:
    random = np.random.default_rng(0)
    with StoreWriter(path, action_space=SPACE) as writer:
        for success in (True, False):
            writer.add(
                Episode(
                    observations={"image": random.integers(0, 256, (STEPS + 1, 3, PIXELS, PIXELS), dtype=np.uint8)},
                    actions=random.uniform(-1, 1, (STEPS, DIMENSIONS)).astype(np.float32),
                    rewards=np.array([0.0] * (STEPS - 1) + [float(success)], np.float32),
                    terminated=success,
                    truncated=not success,
                    success=success,
                    instruction=TEXT,
                )
            )
    return EpisodeView(EpisodeStore.open(path))


def machine(threads: int) -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    return {"cpu": cpu, "threads": threads, "python": platform.python_version()}


if __name__ == "__main__":
    main()
