"""How fast training, decoding and evaluation are, each beside the floor it is held against, on one thread.

    python benchmarks/speed.py [--out benchmarks/results/speed.json]

Run it on an idle machine. Windows and opening of the store have a benchmark of their own: benchmarks/store.py.
"""

from __future__ import annotations

import argparse
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from _machine import write_report
from qseq import Episode, EpisodeStore, EpisodeView, StoreWriter, evaluate
from qseq.actions import make_tokenizer
from qseq.configuration import load_config
from qseq.environments import make_environment
from qseq.policies import TokenPolicySpec
from qseq.robot.algorithm import make_trainer
from qseq.robot.config import QTransformerConfig
from qseq.robot.policy import QTransformerPolicy

BATCH, WARM, ROUNDS, STATE = 256, 5, 30, 39
SPACE = {"type": "box", "low": [-1.0] * 4, "high": [1.0] * 4, "shape": [4], "dtype": "float32"}
METAWORLD = "qseq.environments.metaworld:qseq/metaworld-v3"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/speed.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    Path("runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir="runs", prefix="speed-"))
    try:
        result = {
            "machine": {"cpu": cpu_name(), "threads": 1, "python": platform.python_version()},
            "versions": {name: version(name) for name in ("torch", "numpy", "metaworld", "mujoco")},
            "training": {precision: training(folder / precision, precision) for precision in ("fp32", "bf16")},
            "decoding": decoding(),
            "evaluation": evaluation(),
        }
    finally:
        shutil.rmtree(folder)
    write_report(result, arguments.out)


def training(folder: Path, precision: str) -> dict[str, Any]:
    """Whole optimiser steps on batches that are at hand (training prefetches), against the rate of matrix products.

    The floor: all floating-point operations of a step at the rate of a product of the feed-forward layer's shape.
    """
    view = synthetic_view(folder / "data")
    config = load_config(
        QTransformerConfig, overrides=[f"training.precision={precision}", f"training.batch_size={BATCH}"]
    )
    trainer = make_trainer(config, view, run=folder / "run", seed=0)
    trainer._prepare()
    batches = [trainer.batches.batch_at(i) for i in range(WARM + ROUNDS)]

    class Feed:
        def __init__(self) -> None:
            self.index = -1

        def next(self) -> Any:
            self.index += 1
            return batches[self.index]

    feed = Feed()
    with FlopCounterMode(display=False) as counter:
        trainer._step(1, feed)
    flops = counter.get_total_flops()
    for step in range(WARM - 1):
        trainer._step(step + 2, feed)
    seconds = []
    for step in range(ROUNDS):
        started = time.perf_counter()
        trainer._step(WARM + step, feed)
        seconds.append(time.perf_counter() - started)
    step_seconds = statistics.median(seconds)
    rate = matmul_rate(torch.float32 if precision == "fp32" else torch.bfloat16)
    return {
        "width": config.network.dim,
        "batch": BATCH,
        "steps_per_second": 1 / step_seconds,
        "gflop_per_step": flops / 1e9,
        "matmul_gflops": rate / 1e9,
        "floor_seconds": flops / rate,
        "share_of_matmul_rate": flops / rate / step_seconds,
    }


def decoding() -> dict[str, Any]:
    """Latency of one decision (a batch of 1 and of 64), with and without the key/value cache."""
    result: dict[str, Any] = {}
    for cached in (True, False):
        policy = untrained_policy(use_cache=cached)
        for batch in (1, 64):
            states = {"state": np.random.default_rng(0).normal(size=(batch, STATE)).astype(np.float32)}
            seconds = median_seconds(lambda p=policy, s=states: p.act(s, "push"), 200 if batch == 1 else 60)
            result[f"batch {batch}, {'cache' if cached else 'no cache'}"] = {
                "milliseconds": 1e3 * seconds,
                "microseconds_per_action": 1e6 * seconds / batch,
            }
    return result


def evaluation() -> dict[str, Any]:
    """Steps a second with the policy acting, against the same environments under random actions."""
    num_envs = 50
    result = evaluate(untrained_policy(), METAWORLD, {"task": "push-v3"}, episodes=num_envs, seed=0, num_envs=num_envs)
    environments = [make_environment(METAWORLD, {"task": "push-v3"}) for _ in range(10)]
    for index, environment in enumerate(environments):
        environment.reset(seed=index)
    steps = 0
    started = time.perf_counter()
    for environment in environments:
        for _ in range(150):
            *_, terminated, truncated, _ = environment.step(environment.action_space.sample())
            steps += 1
            if terminated or truncated:
                environment.reset()
    random_rate = steps / (time.perf_counter() - started)
    for environment in environments:
        environment.close()
    return {
        "num_envs": num_envs,
        "steps_per_second": result.steps_per_second,
        "random_actions_steps_per_second": random_rate,
        "ratio": result.steps_per_second / random_rate,
    }


def untrained_policy(**options: Any) -> QTransformerPolicy:
    """A policy of the default sizes for Meta-World."""
    config = load_config(QTransformerConfig)
    spec = TokenPolicySpec(
        network=config.network,
        fields={"state": (STATE,)},
        history=1,
        tokenizer=make_tokenizer(SPACE, num_bins=config.actions.num_bins),
        action_space=SPACE,
        extra={"value": {"kind": "bounded"}, "initial_value": 0.05, "value_folds": 1},
    )
    return QTransformerPolicy(QTransformerPolicy.build_network(spec, spec.blank_layouts()), spec, **options)


def matmul_rate(dtype: torch.dtype) -> float:
    """Floating-point operations a second of [4 * batch, 128] x [128, 512], the largest product of a step."""
    a, b = torch.randn(4 * BATCH, 128, dtype=dtype), torch.randn(128, 512, dtype=dtype)
    return 2 * a.shape[0] * 128 * 512 / median_seconds(lambda: a @ b, 300)


def median_seconds(call: Callable[[], Any], repeats: int) -> float:
    for _ in range(max(3, repeats // 10)):
        call()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def synthetic_view(path: Path, episodes: int = 100, steps: int = 100) -> EpisodeView:
    random = np.random.default_rng(0)
    with StoreWriter(path, action_space=SPACE) as writer:
        for _ in range(episodes):
            writer.add(
                Episode(
                    observations={"state": random.normal(size=(steps + 1, 39)).astype(np.float32)},
                    actions=random.uniform(-1, 1, (steps, 4)).astype(np.float32),
                    rewards=np.zeros(steps, np.float32),
                    terminated=False,
                    truncated=True,
                    success=False,
                )
            )
    return EpisodeView(EpisodeStore.open(path))


def cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


if __name__ == "__main__":
    main()
