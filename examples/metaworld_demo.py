"""Meta-World from sloppy episodes to a report, by the same commands you would type.

    python examples/metaworld_demo.py            # or: make demo

Collects episodes of an expert that is often wrong, half of them abandoned part-way and half begun part-way, so that
none shows the whole task; trains three methods on exactly the same data (two at a time, one thread each); lets each act
from initial states none of them has seen; and writes runs/demo/report.html. Run it again after an interruption and it
goes on where it stopped.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FOLDER = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/demo")
RECIPE = "half-finished"
EPISODES = 360
COLLECTION_SEED = 0
ENVIRONMENT = "qseq.environments.metaworld:qseq/metaworld-v3"
TASK = '{"task": "push-v3"}'
# Method -> arguments of its training. The slowest first: two workers take them in this order.
TRAINING = {
    "q-transformer": ["--steps", "2500"],
    "bc": ["--steps", "2500"],
    "filtered-bc": ["--steps", "2500"],
}
EVALUATION_EPISODES = 100
FILMED_EPISODES = 2
EVALUATION_SEED = 10_000  # far from the collection's seeds: other initial states
WORKERS = 2

printing = threading.Lock()
running: set[subprocess.Popen[str]] = set()


def main() -> None:
    started = time.monotonic()
    data = FOLDER / "data"
    collection = ["--recipe", RECIPE, "--env-kwargs", TASK, "--episodes", str(EPISODES), "--seed", str(COLLECTION_SEED)]
    run_command("data", "collect", *collection, "--out", str(data))
    run_command("data", "inspect", str(data))
    with ThreadPoolExecutor(WORKERS) as workers:
        for done in [workers.submit(train_and_evaluate, method, data) for method in TRAINING]:
            done.result()
    runs = [str(FOLDER / method) for method in TRAINING]
    run_command("report", "report", *runs, "--out", str(FOLDER / "report.html"))
    print(f"done in {(time.monotonic() - started) / 60:.1f} minutes: open {FOLDER / 'report.html'}")


def train_and_evaluate(method: str, data: Path) -> None:
    run = str(FOLDER / method)
    options = ["--data", str(data), "--out", run, "--threads", "1", *TRAINING[method]]
    resume = ["--resume"] if Path(run, "config.yaml").is_file() else []
    run_command(method, "train", "--algo", method, *options, *resume)
    where = ["--env", ENVIRONMENT, "--env-kwargs", TASK]
    measure = ["--episodes", str(EVALUATION_EPISODES), "--seed", str(EVALUATION_SEED)]
    film = ["--video", f"{run}/evaluations/video", "--video-episodes", str(FILMED_EPISODES)]
    run_command(method, "evaluate", run, *where, *measure, *film)


def run_command(label: str, *arguments: str) -> None:
    """Run `qseq ARGUMENTS` and pass on its lines, each with a label.

    Raises:
        SystemExit: the command failed; the others are stopped, so that nobody waits for them.
    """
    say(label, f"$ qseq {shlex.join(arguments)}")
    process = subprocess.Popen(
        [sys.executable, "-m", "qseq.cli.main", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    running.add(process)
    assert process.stdout is not None
    for line in process.stdout:
        say(label, line.rstrip())
    status = process.wait()
    running.discard(process)
    if status != 0:
        for other in list(running):
            other.terminate()
        raise SystemExit(f"{label}: failed with status {status}")


def say(label: str, line: str) -> None:
    with printing:
        print(f"{label:>13} | {line}", flush=True)


if __name__ == "__main__":
    main()
