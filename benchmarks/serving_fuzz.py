"""A hundred thousand hostile messages against `qseq serve`, while a robot is served beside them.

    python benchmarks/serving_fuzz.py [--messages 100000] [--out benchmarks/results/serving_fuzz.json]

Wrong types, arrays that claim to be huge, deep nesting, objects, bytes changed at random, clients that stop in the
middle or never begin, and clients without the key. The robot must get the actions of its own process throughout, and
the server's memory must stay what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import time
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from _hostile import bytes_of_a_stranger, message
from _machine import cpu_model, write_report
from _serving import KEY, WIDTH, Robot, processor_seconds, served, small_policy

ENEMIES = 16
PARTS = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=100_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serving_fuzz.json"))
    arguments = parser.parse_args()
    policy = small_policy()
    with served(policy, "--max-rate", "0", "--reload-seconds", "0") as (port, process):
        robot, generator = Robot(port), np.random.default_rng(0)
        memory, checks, start = [], 0, time.monotonic()
        for part in range(PARTS + 1):  # the first warms up: buffers, caches of texts, the allocator's pools
            asyncio.run(attack(port, arguments.messages // PARTS, seed=part))
            for state in generator.normal(size=(20, WIDTH)).astype(np.float32):
                np.testing.assert_array_equal(robot.infer({"state": state})["actions"][0], policy.act({"state": state}))
                checks += 1
            memory.append(resident_bytes(port))
            print(f"{part}/{PARTS}: {memory[-1] / 2**20:.1f} MiB", flush=True)
        assert process.poll() is None
        result = {
            "machine": {"cpu": cpu_model()},
            "messages": PARTS * (arguments.messages // PARTS),
            "seconds": round(time.monotonic() - start, 1),
            "server_processor_seconds": processor_seconds(process),
            "robot_answers_checked": checks,
            "resident_mib_before": round(memory[0] / 2**20, 1),
            "resident_mib_after": round(memory[-1] / 2**20, 1),
            "resident_mib": [round(found / 2**20, 1) for found in memory],
            "counted_by_server": counters(port),
        }
    write_report(result, arguments.out)


async def attack(port: int, messages: int, seed: int) -> None:
    """Some enemies at once, until together they have said so much; and strangers who never become clients."""
    left = [messages]
    enemies = [enemy(port, left, random.Random(f"{seed} {number}")) for number in range(ENEMIES)]
    await asyncio.gather(*enemies, *(stranger(port, random.Random(f"{seed} s{number}")) for number in range(50)))


async def enemy(port: int, left: list[int], generator: random.Random) -> None:
    while left[0] > 0:
        key = KEY if generator.random() < 0.95 else "wrong" * 4
        headers = {"Authorization": f"Api-Key {key}"}
        with contextlib.suppress(ConnectionClosed, InvalidStatus, OSError, TimeoutError):
            async with connect(
                f"ws://127.0.0.1:{port}/", compression=None, additional_headers=headers, proxy=None
            ) as socket:
                await socket.recv()
                while left[0] > 0:
                    left[0] -= 1
                    await socket.send(message(generator, WIDTH))
                    if generator.random() < 0.01:
                        socket.transport.abort()  # half-open: gone while an answer is on its way
                    elif generator.random() < 0.9:
                        await asyncio.wait_for(socket.recv(), 60)


async def stranger(port: int, generator: random.Random) -> None:
    with contextlib.suppress(OSError):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(bytes_of_a_stranger(generator))
        await writer.drain()
        await asyncio.sleep(generator.random())
        writer.close()


def metrics(port: int) -> dict[str, float]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Api-Key {KEY}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request) as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if not line.startswith("#"))}


def resident_bytes(port: int) -> float:
    return metrics(port)["process_resident_memory_bytes"]


def counters(port: int) -> dict[str, Any]:
    return {name: value for name, value in metrics(port).items() if name.startswith("qseq") and "_total" in name}


if __name__ == "__main__":
    main()
