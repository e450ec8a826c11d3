"""Milliseconds per decision of planners, side by side in one process on one thread.

    python benchmarks/planner_speed.py [--rounds 5] [--out benchmarks/results/planner_speed.json]

The peer is diffusers' own experimental `ValueGuidedRLPipeline` at Diffuser's default settings: 64 samples, 20 steps, 2
gradients, horizon 32, the U-Nets of its published checkpoints. Rounds take turns, so that a busy moment hits all alike;
the median of the rounds is reported, in seconds of the clock and of the processor. Weights are untrained: they do not
change the time.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, UNet1DModel
from torch.utils.flop_counter import FlopCounterMode

from qseq import ValueGuidedRLPipeline
from qseq.configuration import load_config
from qseq.planner import DiffuserConfig, Normaliser, Planner, PlannerNetwork, PlannerSpec
from qseq.planner.pipeline_parts import DiffusersParts
from qseq.planner.sampling import Known, sample_plans

STATE, ACTION, HORIZON, SAMPLES, STEPS, GRADIENTS = 4, 2, 32, 64, 20, 2
BOX = {"type": "box", "low": [-1.0] * ACTION, "high": [1.0] * ACTION, "shape": [ACTION], "dtype": "float32"}
COMMON: dict[str, Any] = {
    "in_channels": STATE + ACTION, "out_channels": STATE + ACTION, "time_embedding_type": "positional",
    "use_timestep_embedding": True, "flip_sin_to_cos": False, "freq_shift": 1, "act_fn": "mish", "layers_per_block": 1,
}  # fmt: skip


def networks() -> tuple[UNet1DModel, UNet1DModel]:
    """U-Net and value function with the widths of Diffuser's published ones for horizon 32."""
    unet = UNet1DModel(
        **COMMON,
        down_block_types=("DownResnetBlock1D",) * 3,
        mid_block_type="MidResTemporalBlock1D",
        up_block_types=("UpResnetBlock1D",) * 2,
        out_block_type="OutConv1DBlock",
        block_out_channels=(32, 128, 256),
    )
    value = UNet1DModel(
        **COMMON,
        down_block_types=("DownResnetBlock1D",) * 4,
        mid_block_type="ValueFunctionMidBlock1D",
        up_block_types=(),
        out_block_type="ValueFunction",
        block_out_channels=(32, 64, 128, 256),
        downsample_each_block=True,
    )
    return unet.eval(), value.eval()


class World:
    """What diffusers' pipeline asks of an environment: its data, and the sizes of its spaces."""

    def __init__(self) -> None:
        random = np.random.default_rng(0)
        self.observation_space, self.action_space = SimpleNamespace(shape=(STATE,)), SimpleNamespace(shape=(ACTION,))
        self._data = {
            "observations": random.normal(size=(1000, STATE)).astype(np.float32),
            "actions": random.uniform(-1, 1, size=(1000, ACTION)).astype(np.float32),
        }

    def get_dataset(self) -> dict[str, np.ndarray]:
        return self._data


def peer(unet: UNet1DModel, value: UNet1DModel) -> Callable[[int], None]:
    """Diffusers' own; it takes one observation at a time."""
    from diffusers.experimental import ValueGuidedRLPipeline as TheirPipeline

    pipeline = TheirPipeline(value, unet, DDPMScheduler(num_train_timesteps=STEPS), World())
    pipeline.scheduler.set_timesteps(STEPS)

    def decide(environments: int) -> None:
        for _ in range(environments):
            with contextlib.redirect_stderr(io.StringIO()), torch.no_grad():  # it draws a progress bar
                pipeline(np.zeros(STATE, np.float32), SAMPLES, HORIZON, GRADIENTS, 0.1)

    return decide


def same_networks(unet: UNet1DModel, value: UNet1DModel) -> Callable[[int], None]:
    """Ours with the same networks and settings."""
    identity = {"states": Normaliser.identity(STATE), "actions": Normaliser.identity(ACTION)}
    pipeline = ValueGuidedRLPipeline(value, unet, DDPMScheduler(num_train_timesteps=STEPS), **identity)
    return lambda environments: _ignore(
        pipeline(np.zeros((environments, STATE), np.float32), SAMPLES, HORIZON, GRADIENTS, 0.1)
    )


def few_steps(unet: UNet1DModel, value: UNet1DModel) -> Callable[[int], None]:
    """The same networks, but 5 steps of DDIM and selection without guidance."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(num_train_timesteps=100, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    scheduler.set_timesteps(5)
    parts = DiffusersParts(unet, value, scheduler, Normaliser.identity(STATE), Normaliser.identity(ACTION))

    def decide(environments: int) -> None:
        known = Known.nothing((environments * 32, HORIZON, STATE + ACTION))
        plans = sample_plans(parts.denoiser, scheduler, known)
        with torch.no_grad():
            parts.value(plans, torch.zeros(1, dtype=torch.int64)).argmax()

    return decide


def ours(*overrides: str) -> Callable[[int], None]:
    """The planner of `qseq train --algo diffuser` with its defaults, for goals."""
    config = load_config(DiffuserConfig, overrides=["data.goal_field=desired_goal", *overrides])
    spec = PlannerSpec(
        data=config.data, trajectory=config.trajectory, denoiser=config.denoiser, diffusion=config.diffusion,
        value=config.value, planning=config.planning, state_size=STATE, action_size=ACTION, action_space=BOX,
    )  # fmt: skip
    planner = Planner(PlannerNetwork(spec).eval().requires_grad_(False), spec, config.planning)
    return lambda environments: _ignore(planner.plan(torch.zeros(environments, STATE), torch.ones(environments, 2)))


def _ignore(_: object) -> None: ...


def measure(
    methods: dict[str, Callable[[int], None]], environments: int, rounds: int, *, warm: int = 1
) -> dict[str, Any]:
    clock: dict[str, list[float]] = {name: [] for name in methods}
    processor: dict[str, list[float]] = {name: [] for name in methods}
    for round_number in range(rounds + warm):
        for name, decide in methods.items():
            started, worked = time.perf_counter(), time.process_time()
            decide(environments)
            if round_number >= warm:
                clock[name].append(time.perf_counter() - started)
                processor[name].append(time.process_time() - worked)
    return {
        name: {
            "milliseconds_per_decision": 1000 * statistics.median(clock[name]) / environments,
            "processor_milliseconds_per_decision": 1000 * statistics.median(processor[name]) / environments,
            "decisions_per_second": environments / statistics.median(clock[name]),
        }
        for name in methods
    }


def times_as_fast(rows: dict[str, dict[str, float]], key: str) -> dict[str, float]:
    return {name: rows["diffusers pipeline"][key] / row[key] for name, row in rows.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/planner_speed.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    unet, value = networks()
    methods = {
        "diffusers pipeline": peer(unet, value),
        "ours, same networks and settings": same_networks(unet, value),
        "ours, same networks, 32 candidates, 5 DDIM steps": few_steps(unet, value),
        "ours, default": ours(),
        "ours, 3 steps (as a warm start at .6)": ours("planning.steps=3"),
    }
    flops = {}
    for name, decide in methods.items():
        with FlopCounterMode(display=False) as counter:
            decide(1)
        flops[name] = counter.get_total_flops() / 1e9
    one = measure(methods, 1, arguments.rounds)
    result = {
        "machine": {"threads": 1, "python": platform.python_version(), "torch": torch.__version__},
        "versions": {name: version(name) for name in ("torch", "diffusers", "numpy")},
        "gflop_per_decision": flops,
        "environments_1": one,
        "times_as_fast_as_the_peer": times_as_fast(one, "milliseconds_per_decision"),
        "times_as_fast_by_processor": times_as_fast(one, "processor_milliseconds_per_decision"),
    }
    print(json.dumps(result, indent=2), flush=True)  # the rest takes longer than all of this
    # Sixteen environments are sixteen calls of the peer, which takes one observation: no need to wait for them.
    batched = {name: decide for name, decide in methods.items() if name != "diffusers pipeline"}
    result["environments_16"] = measure(batched, 16, max(1, arguments.rounds // 3), warm=0)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result["environments_16"], indent=2))


if __name__ == "__main__":
    main()
