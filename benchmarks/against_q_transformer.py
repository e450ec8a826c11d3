"""qseq's `QRoboticTransformer` beside the PyPI package `q-transformer`, on the same machine in the same run.

    python benchmarks/against_q_transformer.py --peer-python PY [--sizes small readme] [--threads 1]
        [--parts acting training] [--out benchmarks/results/against_q_transformer.json]

PY is the Python of an environment of its own, in which `q-transformer==0.5.0` is installed. Each side is a process of
its own with its threads pinned, and they are asked in turn, so that both meet the same neighbours on a shared machine
(training at 224 pixels: as many in turn as fit in memory).
Both get the same arguments: the sizes of the package's README (0.5.0), 224 pixels with four stages, and the same with
three stages at 112 pixels ("small"); 6 frames, 8 actions of 256 bins, tied dueling head, batches of 2 windows.

- Training: a whole step at a time of the package's own `QLearner()` and of qseq's trainer, by the time that its one
  thread worked: where others wait for the same processors, a step's duration says how long it waited. "windows" of 4
  steps differ: it makes a one-step target for each of the 4 decisions of a window, qseq one 4-step target for its first
  decision. So decisions trained a second are given beside windows a second. qseq's reading of windows from a store is
  timed, the other package gets its windows ready made.
- Memory: the peak resident size of a process that does nothing but this training.
- Decoding: all dimensions from an encoded state. Deciding: one frame is new; the other package has no memory. Also with
  decoding compiled, and compiled with int8 or bfloat16 weights; compiling is not part of the times.
- The flipped reward: losses of one batch with the same seed.
Parts that are not asked for stay as the file has them, each with the machine it was measured on.
A case whose memory would not fit (from the measured one-step peak, frame by frame) is not run; the result says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
VIT = {
    "dim_conv_stem": 64,
    "dim": 64,
    "dim_head": 64,
    "depth": [2, 2, 5, 2],
    "window_size": 7,
    "mbconv_expansion_rate": 4,
    "mbconv_shrinkage_rate": 0.25,
    "dropout": 0.1,
}
COMMON = {"frames": 6, "num_actions": 8, "action_bins": 256, "depth": 1, "heads": 8, "dim_head": 64}
SIZES: dict[str, dict[str, Any]] = {
    "small": {**COMMON, "pixels": 112, "vit": {**VIT, "depth": [2, 2, 5]}},
    "readme": {**COMMON, "pixels": 224, "vit": VIT},
}
WARM_UP = 3
"""Training steps that are not counted: the other package's take up to half as long again until its memory is mapped."""
TRAINING_REPEATS = {"small": {1: 5, 4: 3}, "readme": {1: 2, 4: 2}}
BATCH = 2
SPARE_BYTES = 2 * 2**30
GOALS = {"training 4": 8.0, "training 1": 2.0, "decoding": 5.0, "deciding": 5.0, "memory": 3.0}


class Process:
    """One side, answering requests."""

    def __init__(self, command: list[str], threads: int) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        self.process = subprocess.Popen(
            [*command, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
        )

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.process.args}: ended while asked to {do}, with status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class Bench:
    """Starts sides and asks them in turn."""

    def __init__(self, peer_python: str, threads: int) -> None:
        self.threads = threads
        self.commands = {
            "q-transformer": [peer_python, str(HERE / "peers" / "q_transformer_peer.py")],
            "qseq": [sys.executable, str(HERE / "_qseq_side.py")],
        }

    @contextmanager
    def side(self, name: str) -> Iterator[Process]:
        process = Process(self.commands[name], self.threads)
        try:
            yield process
        finally:
            process.close()

    def versions(self) -> dict[str, Any]:
        answers = {}
        for name in self.commands:
            with self.side(name) as process:
                answers[name] = process.ask("versions")
        return answers

    def inference(self, size: dict[str, Any], repeats: int) -> dict[str, Any]:
        """Decoding, deciding and the numbers of parameters."""
        seconds: dict[str, dict[str, list[float]]] = {}
        with ExitStack() as stack:
            sides, parameters = {}, {}
            for name, (side, build) in ACTING.items():
                sides[name] = stack.enter_context(self.side(side))
                parameters[side] = sides[name].ask("build", size=size, **build)["parameters"]
            cases: dict[str, tuple[str, dict[str, Any]]] = {
                "decoding, batch 1": ("decode", {"batch": 1}),
                "decoding, batch 16": ("decode", {"batch": 16}),
                "deciding": ("act", {}),
            }
            for case, (do, arguments) in cases.items():
                seconds[case] = {name: [] for name in sides}
                for turn in range(repeats + 1):  # the first warms up, and compiles
                    for name, process in sides.items():
                        found = process.ask(do, repeats=1 if do == "act" else 5, **arguments)["seconds"]
                        seconds[case][name] += found if turn else []
        return {"parameters": parameters, **{case: compared(found) for case, found in seconds.items()}}

    def training(self, size: dict[str, Any], steps: int, repeats: int, variants: dict[str, Any]) -> dict[str, Any]:
        """Seconds of a step and peak memory of each variant: `{name: (side, arguments of build, precision)}`."""
        with ExitStack() as stack:
            sides = {}
            for name, (side, build, precision) in variants.items():
                sides[name] = stack.enter_context(self.side(side))
                sides[name].ask("build", size=size, **build)
                sides[name].ask("start_training", steps=steps, batch=BATCH, precision=precision)
            answers: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
            for turn in range(WARM_UP + repeats):
                for name, side in sides.items():
                    answer = side.ask("train")
                    answers[name] += [answer] if turn >= WARM_UP else []
        return {name: rates(found, steps if name.startswith("q-transformer") else 1) for name, found in answers.items()}

    def flipped(self) -> dict[str, Any]:
        found = {}
        for name in self.commands:
            with self.side(name) as side:
                side.ask("build", size=SIZES["small"])
                found[name] = side.ask("flip", steps=4)
        return found


def rates(answers: list[dict[str, Any]], decisions: int) -> dict[str, Any]:
    """What is trained in a second of the processor; a window trains so many decisions."""
    worked = [answer["processor_seconds"] for answer in answers]
    windows_per_second = BATCH / statistics.median(worked)
    return {
        "windows_per_second": windows_per_second,
        "decisions_trained_per_second": decisions * windows_per_second,
        "processor_seconds_per_step": worked,
        "seconds_per_step": [answer["seconds"] for answer in answers],
        "peak_bytes": answers[-1]["peak_bytes"],
    }


def compared(seconds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    theirs = medians["q-transformer"]
    return {
        "median_seconds": medians,
        "repeats": {name: len(found) for name, found in seconds.items()},
        "times_as_fast": {name: theirs / ours for name, ours in medians.items() if name != "q-transformer"},
    }


def ratios(found: dict[str, Any]) -> dict[str, Any]:
    """qseq's paper backup (the same algorithm) in float32 against the other package in float32."""
    theirs = found["q-transformer"]
    return {
        name: {
            "windows": found[name]["windows_per_second"] / theirs["windows_per_second"],
            "decisions": found[name]["decisions_trained_per_second"] / theirs["decisions_trained_per_second"],
            "memory": theirs["peak_bytes"] / found[name]["peak_bytes"],
        }
        for name in ("qseq", "qseq, checkpointing")
        if name in found
    }


ACTING: dict[str, tuple[str, dict[str, Any]]] = {
    "q-transformer": ("q-transformer", {}),
    "qseq": ("qseq", {}),
    "qseq, compiled": ("qseq", {"policy": {"compiled": True}}),
    "qseq, compiled, int8": ("qseq", {"policy": {"compiled": True, "weights": "int8"}}),
    "qseq, compiled, bfloat16": ("qseq", {"policy": {"compiled": True, "weights": "bfloat16"}}),
}
OURS = {
    "qseq": ("qseq", {"bootstrap": "max"}, "fp32"),
    "qseq, expectile (default)": ("qseq", {"bootstrap": "expectile"}, "fp32"),
    "qseq, bf16": ("qseq", {"bootstrap": "max"}, "bf16"),
    "qseq, checkpointing": ("qseq", {"bootstrap": "max", "checkpointing": True}, "fp32"),
    "qseq, bf16, checkpointing": ("qseq", {"bootstrap": "max", "checkpointing": True}, "bf16"),
}
TOGETHER = {  # what fits into 24 GB beside each other, where all do not
    "readme": [["q-transformer", "qseq, checkpointing"], ["qseq"], ["qseq, bf16", "qseq, bf16, checkpointing"]],
}
PEER = {"q-transformer": ("q-transformer", {}, "fp32")}
PEER_BF16 = {"q-transformer, bf16": ("q-transformer", {}, "bf16")}


def measure_acting(bench: Bench, name: str) -> dict[str, Any]:
    size = SIZES[name]
    return {"arguments": size, **bench.inference(size, repeats=5 if name == "small" else 3)}


def measure_training(bench: Bench, name: str) -> dict[str, Any]:
    size = SIZES[name]
    result: dict[str, Any] = {}
    for steps, repeats in TRAINING_REPEATS[name].items():
        variants = dict(PEER | OURS)
        if name == "small" and steps == 1:
            variants |= PEER_BF16
        elif name == "readme":
            del variants["qseq, expectile (default)"]
        one_step = result.get("windows of 1", {}).get("q-transformer")
        needed = 0.0
        if one_step:
            needed = steps * one_step["peak_bytes"] if name != "small" else 0.0
        if needed > available_bytes() - SPARE_BYTES:
            del variants["q-transformer"]
        found: dict[str, Any] = {}
        for names in TOGETHER.get(name, [list(variants)]):
            together = {variant: variants[variant] for variant in names if variant in variants}
            found |= bench.training(size, steps, repeats, together)
        if "q-transformer" in variants:
            found["ratios"] = ratios(found)
        else:
            found["q-transformer"] = {
                "not run": "would not fit in memory",
                "estimated_peak_bytes": needed,
                "available_bytes": available_bytes(),
            }
        result[f"windows of {steps}"] = found
    return result


PARTS = {"acting": measure_acting, "training": measure_training}


def available_bytes() -> float:
    info = Path("/proc/meminfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable")), float("inf"))


def cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="Python of an environment with q-transformer 0.5.0; needed")
    parser.add_argument("--sizes", nargs="+", choices=sorted(SIZES), default=["small", "readme"])
    parser.add_argument("--parts", nargs="+", choices=sorted(PARTS), default=sorted(PARTS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/against_q_transformer.json"))
    arguments = parser.parse_args()
    if arguments.peer_python is None:
        print("not run: give --peer-python, there is nothing to compare with here")  # `make bench` goes on
        return
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    bench = Bench(arguments.peer_python, arguments.threads)
    result: dict[str, Any] = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    result |= {
        "batch": BATCH,
        "goals (times as fast, or times less memory)": GOALS,
        "flipped reward (losses of one batch and seed)": bench.flipped(),
    }
    for part in arguments.parts:
        machine = {
            "cpu": cpu_name(),
            "cores": os.cpu_count(),
            "threads": arguments.threads,
            "load_average_at_start": os.getloadavg()[0],
        }
        started = time.monotonic()
        result[part] = {"machine": machine, "sides": bench.versions()}
        for name in arguments.sizes:
            result[part] |= {name: PARTS[part](bench, name), "run_seconds": time.monotonic() - started}
            arguments.out.write_text(json.dumps(result, indent=2) + "\n")
            print(f"{time.monotonic() - started:.0f} s: {part}, {name}", file=sys.stderr)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
