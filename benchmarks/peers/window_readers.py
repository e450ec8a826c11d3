"""Batches of random windows of 6 frames, read by one contender. Runs in that contender's own environment.

    python window_readers.py CONTENDER REQUEST.json

The request: {"path", "frames", "batch", "seconds", "seed", "threads", ...}. Prints one line of JSON: windows a second,
memory, versions. `benchmarks/store_scale.py` starts it; a contender is timed as its own users would use it, in one
process, its pictures ready as torch tensors in the batch's memory (uint8, or whatever it gives).
"""

from __future__ import annotations

import importlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

Request = dict[str, Any]
Batches = Iterator[Any]
FIELD = "eye"


def numpy_gather(request: Request) -> Batches:
    """The floor: rows are given, one `take` from a memory map of the raw frames."""
    column = np.memmap(request["path"], np.uint8, "r").reshape(-1, *request["shape"])
    column = np.asarray(column)
    random = np.random.default_rng(request["seed"])
    back = np.arange(request["frames"])[::-1]
    while True:
        rows = random.integers(request["frames"], len(column), request["batch"])[:, None] - back
        yield torch.from_numpy(column.take(rows, axis=0))


def qseq(request: Request) -> Batches:
    from qseq.episodes import EpisodeStore, EpisodeView, Windows, WindowSpec
    from qseq.episodes.decoding_threads import set_decoding_threads

    set_decoding_threads(request["threads"])
    view = EpisodeView(EpisodeStore.open(request["path"]))
    spec = WindowSpec(history=request["frames"], bootstrap_steps=())
    windows = Windows(view, spec, batch_size=request["batch"], seed=request["seed"], discount=0.99, fields=[FIELD])
    for index in range(10**9):
        yield windows.batch_at(index)


def q_transformer(request: Request) -> Batches:
    """The package's own dataset: an item is a stack of 6 frames and the next stack."""
    import types

    # As in q_transformer_peer.py: hidden is what does not load beside a CPU build of torch and is not measured.
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    sys.modules["open_clip"] = types.ModuleType("open_clip")
    sys.modules["open_clip"].tokenizer = None  # type: ignore[attr-defined]
    package = importlib.import_module("q_transformer.agent")
    dataset = package.ReplayMemoryDataset(request["path"], num_timesteps=1, condition_on_text=False)
    return endless(WithoutNothing(dataset), request)


def lerobot(request: Request) -> Batches:
    package = importlib.import_module("lerobot.datasets.lerobot_dataset")
    fps = request["fps"]
    key = f"observation.images.{FIELD}"
    times = {key: [-index / fps for index in reversed(range(request["frames"]))]}
    dataset = package.LeRobotDataset(
        "someone/data", root=request["path"], delta_timestamps=times, video_backend=request["backend"]
    )
    return endless(dataset, request)


def minari(request: Request) -> Batches:
    path = Path(request["path"])
    os.environ["MINARI_DATASETS_PATH"] = str(path.parent)
    package = importlib.import_module("minari")
    dataset = package.load_dataset(path.name)
    random = np.random.default_rng(request["seed"])
    while True:
        windows = []
        for index in random.integers(dataset.total_episodes, size=request["batch"]):
            observations = dataset[int(index)].observations[FIELD]
            last = random.integers(request["frames"], len(observations))
            windows.append(observations[last - request["frames"] : last])
        yield torch.from_numpy(np.stack(windows))


def torchrl(request: Request) -> Batches:
    """Memory-mapped storage on the disk, slices of trajectories."""
    from tensordict import TensorDict

    data = importlib.import_module("torchrl.data")
    column = np.memmap(request["raw"], np.uint8, "r").reshape(-1, *request["shape"])
    episodes = torch.from_numpy(np.load(request["episodes"]))
    storage = data.LazyMemmapStorage(len(column), scratch_dir=request["path"])
    sampler = data.SliceSampler(slice_len=request["frames"], traj_key="episode", cache_values=True)
    buffer = data.ReplayBuffer(storage=storage, sampler=sampler, batch_size=request["batch"] * request["frames"])
    for first in range(0, len(column), 2048):
        rows = slice(first, min(first + 2048, len(column)))
        frames = torch.from_numpy(np.array(column[rows]))
        buffer.extend(TensorDict({FIELD: frames, "episode": episodes[rows]}, batch_size=[len(frames)]))
    if request["cold"]:
        forget(Path(request["path"]))
    while True:
        yield buffer.sample()


class WithoutNothing(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """The items of a dataset without what is None, which torch cannot put together."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return [part for part in self.dataset[index] if part is not None]


def endless(dataset: Any, request: Request) -> Batches:
    generator = torch.Generator().manual_seed(request["seed"])
    while True:
        yield from torch.utils.data.DataLoader(
            dataset, batch_size=request["batch"], shuffle=True, generator=generator, drop_last=True
        )


def forget(path: Path) -> None:
    """Have the system forget the pages of files, so that the next read comes from the disk."""
    for file in [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file()):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def memory() -> dict[str, float]:
    """Resident megabytes: in all, and of that what belongs to no file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    kilobytes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }
    return {"resident_mb": kilobytes["VmRSS"] / 1024, "own_mb": kilobytes["RssAnon"] / 1024}


CONTENDERS: dict[str, tuple[Callable[[Request], Batches], tuple[str, ...]]] = {
    "numpy": (numpy_gather, ("numpy",)),
    "qseq": (qseq, ("qseq", "numpy", "torch")),
    "q-transformer": (q_transformer, ("q-transformer", "torch")),
    "lerobot": (lerobot, ("lerobot", "torch", "torchcodec", "av")),
    "minari": (minari, ("minari", "h5py")),
    "torchrl": (torchrl, ("torchrl", "tensordict", "torch")),
}


def main() -> None:
    name, request = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
    torch.set_num_threads(1)
    if request["control_group"]:
        Path(request["control_group"], "cgroup.procs").write_text(str(os.getpid()))
    read, packages = CONTENDERS[name]
    before = memory()
    started = time.perf_counter()
    batches = read(request)
    batch = next(batches)  # what is made at the first call, and opening, are not part of the rate
    opening = time.perf_counter() - started
    if not request["cold"]:  # have the pages of the files mapped before
        ready = time.perf_counter() + request["seconds"] / 4
        while time.perf_counter() < ready:
            batch = next(batches)
    times, worked = [], time.process_time()
    deadline = time.perf_counter() + request["seconds"]
    while time.perf_counter() < deadline or len(times) < 3:
        started = time.perf_counter()
        batch = next(batches)
        times.append(time.perf_counter() - started)
    worked = time.process_time() - worked
    del batch
    after = memory()
    print(
        json.dumps(
            {
                "windows_per_second": round(len(times) * request["batch"] / sum(times), 1),
                "windows_per_cpu_second": round(len(times) * request["batch"] / worked, 1),
                "batches": len(times),
                "open_and_first_batch_seconds": round(opening, 3),
                "resident_mb": round(after["resident_mb"] - before["resident_mb"], 1),
                "own_mb": round(after["own_mb"] - before["own_mb"], 1),
                "versions": {package: version(package) for package in packages} | {"python": platform.python_version()},
            }
        )
    )


if __name__ == "__main__":
    main()
