"""What exporting and rounding a policy cost it: success on the same starts, latency, bytes.

    python benchmarks/export.py RUN [--out benchmarks/results/export.json] [--task push-v3] [--episodes 100]

RUN is a Q-Transformer trained on Meta-World (`make demo` trains one). Four policies are made of it: torch and ONNX,
each with its own and with eight-bit weights. All meet the same initial states (seed 10000). Latency is that of one
decision for one robot, on one thread. What is measured already is kept; delete the result file to measure anew.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _machine import cpu_model
from qseq import evaluate, load_policy
from qseq.export import OnnxPolicy, export_policy

ENVIRONMENT = "qseq.environments.metaworld:qseq/metaworld-v3"
SEED, WARM, DECISIONS = 10_000, 20, 300
VARIANTS = ("torch float32", "torch int8", "onnx float32", "onnx int8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/export.json"))
    parser.add_argument("--task", default="push-v3")
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--policies", nargs="+", choices=VARIANTS, default=VARIANTS, help="default: all")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {
        "machine": {"cpu": cpu_model(), "threads": 1},
        "versions": {name: version(name) for name in ("torch", "onnxruntime", "metaworld", "mujoco")},
        "task": arguments.task,
        "episodes": arguments.episodes,
        "seed": SEED,
        "parameters": load_policy(arguments.run).describe()["parameters"],
        "policies": {},
    }
    if arguments.out.is_file():
        result["policies"] = json.loads(arguments.out.read_text())["policies"]
    for variant in arguments.policies:
        if variant in result["policies"]:
            continue
        with tempfile.TemporaryDirectory() as folder:
            policy, size = make(variant, arguments.run, Path(folder))
            latency = decision_seconds(policy)
            print(variant, latency, flush=True)
            found = evaluate(policy, ENVIRONMENT, {"task": arguments.task}, episodes=arguments.episodes, seed=SEED)
        result["policies"][variant] = {
            "success_rate": found.success_rate,
            "success_ci95": found.success_ci95,
            "successes": [row["success"] for row in found.rows],
            "bytes": size,
            **latency,
        }
        print(variant, found.success_rate, found.success_ci95, size, flush=True)
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps(result) + "\n")


def make(variant: str, run: Path, folder: Path) -> tuple[Any, int]:
    """The policy, and the bytes of the files it is made of."""
    runtime, weights = variant.split()
    if runtime == "onnx":
        export_policy(run, folder / "exported", int8=weights == "int8")
        policy: Any = OnnxPolicy(folder / "exported")
    else:
        policy = load_policy(run, weights=weights)
        policy.save_pretrained(folder / "exported")
    return policy, sum(path.stat().st_size for path in (folder / "exported").iterdir())


def decision_seconds(policy: Any) -> dict[str, float]:
    """By the clock, and of the one thread's own time, which is the same on an idle machine and holds on a busy one."""
    random = np.random.default_rng(0)
    clock, thread = [], []
    for _ in range(WARM + DECISIONS):
        seen = {name: random.normal(size=shape).astype(np.float32) for name, shape in policy.observation_fields.items()}
        started, thread_started = time.perf_counter(), time.thread_time()
        policy.act(seen)
        clock.append(time.perf_counter() - started)
        thread.append(time.thread_time() - thread_started)
    policy.reset()
    cuts = statistics.quantiles(clock[WARM:], n=100)
    return {
        "p50_seconds": cuts[49],
        "p99_seconds": cuts[98],
        "thread_p50_seconds": statistics.median(thread[WARM:]),
    }


if __name__ == "__main__":
    main()
