"""A policy behind `qseq serve` beside the same one in process: the same actions, how late, and how many a second.

    pip install --no-deps openpi-client==0.1.2 && pip install dm-tree     # for the identity part
    python benchmarks/serving.py [--seconds 5] [--out benchmarks/results/serving.json]

Identity: openpi's own client drives a Meta-World episode through the server, and the policy drives the same one in this
process. Load: 1, 8 and 64 clients of this process ask one after the other as fast as they are answered; once with
batches of up to 64, once one by one. Server and clients are one thread each. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import asyncio
import platform
import shutil
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from websockets.asyncio.client import connect

import qseq
from _machine import cpu_model, write_report
from _serving import KEY, WIDTH, Robot, served, small_policy, unpack
from qseq.configuration import load_config
from qseq.environments import make_environment
from qseq.evaluation import collect_recipe
from qseq.policies import Policy
from qseq.serving.codec import pack

METAWORLD, TASK, SEED = "qseq.environments.metaworld:qseq/metaworld-v3", {"task": "push-v3"}, 5
CLIENTS = (1, 8, 64)
PACKAGES = ("torch", "numpy", "websockets", "msgpack", "openpi-client", "metaworld", "mujoco")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    policy = small_policy()
    result = {
        "machine": {"cpu": cpu_model(), "threads": 1, "python": platform.python_version()},
        "versions": {name: installed(name) for name in PACKAGES},
        "identity": identity(),
        "in_process": {str(batch): in_process(policy, batch, arguments.seconds) for batch in CLIENTS},
        "served": load(policy, arguments.seconds, "--max-batch", "64"),
        "served_one_by_one": load(policy, arguments.seconds, "--max-batch", "1"),
    }
    alone, most = str(CLIENTS[0]), str(CLIENTS[-1])
    result["overhead_ms_p50"] = result["served"][alone]["ms_p50"] - result["in_process"][alone]["ms_p50"]
    result["batching_speedup"] = result["served"][most]["per_second"] / result["served_one_by_one"][most]["per_second"]
    write_report(result, arguments.out)


def identity() -> dict[str, Any]:
    """One episode of Meta-World, twice."""
    Path("runs").mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir="runs", prefix="serving-"))
    try:
        collect_recipe("corrupted", TASK["task"], episodes=6, seed=0, out=folder / "data")
        algorithm = qseq.get_algorithm("q-transformer")
        config = load_config(
            algorithm.config_class,
            overrides=["training.steps=40", "training.threads=1", "training.trackers=[]", "data.history=2"],
        )
        algorithm.train(config, data=[str(folder / "data")], run=folder / "run", seed=0)
        own = Acting(qseq.load_policy(folder / "run"))
        with served(folder / "run") as (port, _):
            served_actions = episode(OpenPi(port))
        own_actions = episode(own)
        return {
            "client": f"openpi-client {installed('openpi-client')}",
            "steps": len(own_actions),
            "same_actions": bool(np.array_equal(served_actions, own_actions)),
        }
    finally:
        shutil.rmtree(folder)


class Acting:
    """The policy in this process, asked as a client is."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def infer(self, observation: dict[str, Any]) -> np.ndarray:
        text = observation.pop("prompt")
        return self.policy.act(observation, text if self.policy.takes_instructions else None)


class OpenPi:
    """openpi's client: the genuine package."""

    def __init__(self, port: int) -> None:
        from openpi_client.websocket_client_policy import WebsocketClientPolicy

        self.client = WebsocketClientPolicy("127.0.0.1", port, api_key=KEY)

    def infer(self, observation: dict[str, Any]) -> np.ndarray:
        actions: np.ndarray = self.client.infer(observation)["actions"]
        return actions[0]


def episode(actor: Acting | OpenPi) -> np.ndarray:
    """The actions of one episode."""
    env = make_environment(METAWORLD, TASK)
    observation, info = env.reset(seed=SEED)
    actions, over = [], False
    while not over:
        actions.append(actor.infer({**observation, "prompt": info["instruction"]}))
        observation, _, terminated, truncated, _ = env.step(actions[-1])
        over = terminated or truncated
    return np.stack(actions)


def in_process(policy: Policy, batch: int, seconds: float) -> dict[str, float]:
    """Decoding as evaluation does it, for so many environments together."""
    states = np.random.default_rng(0).normal(size=(batch, WIDTH)).astype(np.float32)
    policy.reset()
    for _ in range(5):
        policy.act({"state": states})
    spent: list[float] = []
    while sum(spent) < seconds:
        start = time.perf_counter()
        policy.act({"state": states})
        spent.append(time.perf_counter() - start)
    return summary(spent, batch * len(spent) / sum(spent))


def load(policy: Policy, seconds: float, *arguments: str) -> dict[str, dict[str, float]]:
    """By number of clients."""
    with served(policy, "--max-rate", "0", "--reload-seconds", "0", *arguments) as (port, _):
        return {
            str(clients): alone(port, seconds) if clients == 1 else asyncio.run(together(port, clients, seconds))
            for clients in CLIENTS
        }


def alone(port: int, seconds: float) -> dict[str, float]:
    robot = Robot(port)
    observation = {"state": np.random.default_rng(0).normal(size=WIDTH).astype(np.float32)}
    for _ in range(5):
        robot.infer(observation)
    spent: list[float] = []
    while sum(spent) < seconds:
        start = time.perf_counter()
        robot.infer(observation)
        spent.append(time.perf_counter() - start)
    return summary(spent, len(spent) / sum(spent))


async def together(port: int, clients: int, seconds: float) -> dict[str, float]:
    spent: list[float] = []
    begin = time.perf_counter() + 1.0  # the first second warms up
    await asyncio.gather(*(client(port, number, begin, begin + seconds, spent) for number in range(clients)))
    return summary(spent, len(spent) / seconds)


async def client(port: int, number: int, begin: float, end: float, spent: list[float]) -> None:
    message = pack({"state": np.random.default_rng(number).normal(size=WIDTH).astype(np.float32)})
    headers = {"Authorization": f"Api-Key {KEY}"}
    async with connect(f"ws://127.0.0.1:{port}", compression=None, additional_headers=headers, proxy=None) as socket:
        await socket.recv()
        while (start := time.perf_counter()) < end:
            await socket.send(message)
            unpack(await socket.recv())
            if start >= begin:
                spent.append(time.perf_counter() - start)


def summary(spent: list[float], per_second: float) -> dict[str, float]:
    p50, p99 = np.quantile(spent, [0.5, 0.99])
    return {"ms_p50": round(1e3 * p50, 3), "ms_p99": round(1e3 * p99, 3), "per_second": round(per_second, 1)}


def installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
