"""Windows of pictures a second: the store in each coding beside numpy and what others offer, on the same frames.

    python benchmarks/store_scale.py                                     warm, 0.1 GB a size: about three minutes
    python benchmarks/store_scale.py --gigabytes 10 --cold --seconds 30 --out benchmarks/results/store_scale_cold.json
        --control-group /sys/fs/cgroup/memory/small                      an hour; 22 GB of disk at most
        [--sides 64 224] [--only qseq-raw qseq-jpeg ...] [--out benchmarks/results/store_scale.json]

Batches of 64 random windows of 6 frames. The frames are Meta-World's, rendered once and then moved and recoloured to
fill the size asked for (so that films and JPEG meet what they meet in use). Each contender reads in a process of its
own with one torch thread; its copy of the data is made before and removed after (of slow codings, of one GB at most).
`--cold` has the system forget all pages before a contender reads; a control group that limits the readers' memory keeps
data smaller than this machine's from staying there whole. Environments with other packages are named by
QSEQ_LEROBOT_PYTHON, QSEQ_Q_TRANSFORMER_PYTHON and QSEQ_TORCHRL_PYTHON; what is not named is left out, and the result
says so.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from _machine import cpu_model, write_report
from qseq.episodes import Episode, EpisodeStore, StoreWriter, convert
from qseq.episodes.formats.video import psnr
from qseq.evaluation.collect import collect

sys.path.insert(0, str(Path(__file__).parent / "peers"))
from window_readers import FIELD, forget

FRAMES, BATCH, FPS = 6, 64, 20
SPACE = {"type": "box", "low": [-1.0] * 4, "high": [1.0] * 4}
READERS = Path(__file__).parent / "peers" / "window_readers.py"
RENDERED = {64: 12, 224: 4}  # episodes
LARGEST_LAYOUT = 3e9  # bytes of q-transformer's layout: it holds all of it in memory
LARGEST_COMPRESSED = {"png": 1e9, "jpeg:90": 1e9}  # bytes of raw frames: to write more of these takes too long


@dataclass(frozen=True)
class Contender:
    """One way to keep and read the frames.

    `build` makes its copy in a folder and returns what its reader asks for, and "num_frames" if it holds fewer.
    """

    name: str
    reader: str
    build: Callable[[EpisodeStore, Path], dict[str, Any]]
    python: str = sys.executable
    missing: str = ""
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Copy:
    """What `build` made: several contenders in a row may read the same."""

    build: Callable[[EpisodeStore, Path], dict[str, Any]]
    folder: Path
    request: dict[str, Any]
    seconds: float

    @classmethod
    def made(cls, build: Callable[[EpisodeStore, Path], dict[str, Any]], store: EpisodeStore, folder: Path) -> Copy:
        folder.mkdir()
        started = time.perf_counter()
        request = build(store, folder)
        return cls(build, folder, request, time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.1, help="of raw frames, for each size")
    parser.add_argument("--sides", type=int, nargs="+", default=[64, 224], choices=sorted(RENDERED))
    parser.add_argument("--seconds", type=float, default=4.0, help="of reading, for each contender")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument(
        "--control-group", type=Path, help="folder of one that limits memory: readers join it, pages of files count"
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="some contenders only")
    parser.add_argument("--no-training", action="store_true", help="leave out how long a trainer waits")
    parser.add_argument("--folder", type=Path, default=Path("runs"), help="where the copies are made")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/store_scale.json"))
    arguments = parser.parse_args()
    os.environ["QSEQ_PROGRESS"] = "0"
    torch.set_num_threads(1)
    arguments.folder.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=arguments.folder, prefix="store-scale-")).absolute()
    sizes = {}
    try:
        for side in arguments.sides:
            sizes[str(side)] = measure_side(side, folder / str(side), arguments)
            shutil.rmtree(folder / str(side))
    finally:
        shutil.rmtree(folder)
    report = {
        "gigabytes": arguments.gigabytes,
        "cold": arguments.cold,
        "memory_of_a_reader_gb": memory_limit_gb(arguments.control_group),
        "seconds": arguments.seconds,
        "batch": BATCH,
        "frames_a_window": FRAMES,
        "sides": sizes,
        "note": "own_mb: memory that belongs to no file; resident_mb: with the pages of mapped files, which the system "
        "may take back at any time; a window of q-transformer holds the next stack as well; ratios are those of "
        "windows a CPU second if warm (a busy machine does not change them), of windows a second if cold",
        "machine": {"cpu": cpu_model(), "cores": os.cpu_count(), "memory_gb": memory_gb(), "system": platform.system()},
        "python": platform.python_version(),
    }
    write_report(report, arguments.out)


def measure_side(side: int, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    folder.mkdir()
    store = write_frames(side, folder, arguments.gigabytes)
    result: dict[str, Any] = {"episodes": store.num_episodes, "frames": store.num_frames, "contenders": {}}
    copy: Copy | None = None
    for contender in contenders():
        if arguments.only is not None and contender.name not in arguments.only:
            continue
        if contender.missing:
            measured: dict[str, Any] = {"not_measured": contender.missing}
        else:
            if copy is None or copy.build is not contender.build:
                shutil.rmtree(folder / "copy", ignore_errors=True)
                copy = Copy.made(contender.build, store, folder / "copy")
            measured = measure(contender, store, copy, arguments)
        result["contenders"][contender.name] = measured
        print(f"{side} px  {contender.name}: {json.dumps(measured)}", file=sys.stderr, flush=True)
    shutil.rmtree(folder / "copy", ignore_errors=True)
    summarise(result["contenders"], arguments.cold)
    if not arguments.no_training:
        result["training"] = {images: waiting(store, folder / "training", images) for images in ("raw", "jpeg")}
    return result


def measure(contender: Contender, store: EpisodeStore, copy: Copy, arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.cold:
        forget(copy.folder)
        forget(store.path)
    request = {
        "path": str(copy.folder),
        "frames": FRAMES,
        "batch": BATCH,
        "seconds": arguments.seconds,
        "seed": 0,
        "threads": 1,
        "cold": arguments.cold,
        "control_group": str(arguments.control_group or ""),
        "shape": list(store.schema.fields[FIELD].shape),
        **contender.options,
        **copy.request,
    }
    asked = copy.folder.parent / "request.json"
    asked.write_text(json.dumps(request))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    if contender.python != sys.executable:
        environment["PYTHONPATH"] = ""
    done = subprocess.run(
        [contender.python, str(READERS), contender.reader, str(asked)], capture_output=True, text=True, env=environment
    )
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if "Error" in line] or [f"status {done.returncode}"]
        plain = re.sub(r"/\S*/", "", told[-1]).strip()  # folders of this machine mean nothing elsewhere
        return {"not_measured": f"it failed: {plain[:200]}"}
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    size = bytes_on_disk(store.path if contender.reader == "numpy" else copy.folder)
    frames = copy.request.get("num_frames", store.num_frames)
    # Those that copy nothing here write their copy themselves, when they are read.
    written = {"frames_written_per_second": round(frames / copy.seconds)} if copy.seconds > 0.1 else {}
    told_db = copy.request.get("psnr_db")
    psnr_db = quality(contender, store, copy.folder) if told_db is None else {"psnr_db": told_db}
    return {
        **measured,
        "frames": frames,
        "mb_on_disk": round(size / 1e6, 2),
        "bytes_a_frame": round(size / frames),
        **written,
        **psnr_db,
    }


def contenders() -> Iterator[Contender]:
    yield Contender("numpy-gather", "numpy", to_nothing)
    yield Contender("qseq-raw", "qseq", to_store("raw"))
    yield Contender("qseq-jpeg", "qseq", to_store("jpeg"))
    yield Contender("qseq-jpeg-2-threads", "qseq", to_store("jpeg"), options={"threads": 2})
    yield Contender("qseq-jpeg:90", "qseq", to_store("jpeg:90"))
    yield Contender("qseq-png", "qseq", to_store("png"))
    for backend in ("pyav", "torchcodec"):
        yield elsewhere(
            f"lerobot-{backend}", "lerobot", to_lerobot, "QSEQ_LEROBOT_PYTHON", {"backend": backend, "fps": FPS}
        )
    yield Contender("minari", "minari", to_minari)
    yield elsewhere("torchrl-memmap", "torchrl", to_torchrl, "QSEQ_TORCHRL_PYTHON")
    yield elsewhere("q-transformer", "q-transformer", to_q_transformer, "QSEQ_Q_TRANSFORMER_PYTHON")


def elsewhere(
    name: str,
    reader: str,
    build: Callable[[EpisodeStore, Path], dict[str, Any]],
    variable: str,
    options: dict[str, Any] | None = None,
) -> Contender:
    """A contender with an environment of its own."""
    python = os.environ.get(variable, "")
    missing = "" if python else f"{variable} names no Python of an environment that has it"
    return Contender(name, reader, build, python or sys.executable, missing, options or {})


def to_nothing(store: EpisodeStore, copy: Path) -> dict[str, Any]:
    return {"path": str(raw_frames(store))}


@cache
def to_store(images: str) -> Callable[[EpisodeStore, Path], dict[str, Any]]:
    def build(store: EpisodeStore, copy: Path) -> dict[str, Any]:
        frames = LARGEST_COMPRESSED.get(images, np.inf) / np.prod(store.schema.fields[FIELD].shape)
        if store.num_frames <= frames:
            convert(str(store.path), str(copy / "store"), images=images)
            return {"path": str(copy / "store")}
        some = range(int(np.searchsorted(np.cumsum(store.lengths + 1), frames)))
        with StoreWriter(copy / "store", action_space=SPACE, images=images) as writer:
            writer.extend(store.episode(index) for index in some)
        return {"path": str(copy / "store"), "num_frames": EpisodeStore.open(copy / "store").num_frames}

    return build


def to_lerobot(store: EpisodeStore, copy: Path) -> dict[str, Any]:
    done = convert(str(store.path), f"lerobot:{copy / 'data'}", fps=FPS)
    told = [float(found[1]) for note in done.notes if (found := re.search(r"PSNR ([\d.]+) dB", note))]
    return {"path": str(copy / "data"), "psnr_db": min(told, default=None)}


def to_minari(store: EpisodeStore, copy: Path) -> dict[str, Any]:
    convert(str(store.path), f"minari:{copy / 'frames-v0'}")
    return {"path": str(copy / "frames-v0")}


def to_torchrl(store: EpisodeStore, copy: Path) -> dict[str, Any]:
    """It writes its memory maps itself: the time for that is not asked for."""
    episodes = np.repeat(np.arange(store.num_episodes), store.lengths + 1)
    numbers = copy.parent / "episodes.npy"
    np.save(numbers, episodes)
    return {"raw": str(raw_frames(store)), "episodes": str(numbers)}


def to_q_transformer(store: EpisodeStore, copy: Path) -> dict[str, Any]:
    """[episodes, T, channels, 6 frames, height, width] of float32, as much of it as may be held in memory."""
    shape = store.schema.fields[FIELD].shape
    longest = int(store.lengths.max())
    stack = (shape[0], FRAMES, *shape[1:])
    episodes = max(1, min(store.num_episodes, int(LARGEST_LAYOUT / (4 * np.prod(stack) * longest))))
    new = np.lib.format.open_memmap
    states = new(copy / "states.memmap.npy", mode="w+", dtype="float32", shape=(episodes, longest, *stack))
    for name, dtype, more in (("actions", "int64", (4,)), ("rewards", "float32", ()), ("dones", "bool", ())):
        column = new(copy / f"{name}.memmap.npy", mode="w+", dtype=dtype, shape=(episodes, longest, *more))
        if name == "dones":
            column[np.arange(episodes), store.lengths[:episodes] - 1] = True
        column.flush()
    for index in range(episodes):
        frames = store.columns[FIELD][store.rows(FIELD, index)]
        for step in range(int(store.lengths[index])):
            window = frames[np.maximum(np.arange(step - FRAMES + 1, step + 1), 0)]
            states[index, step] = np.moveaxis(window, 0, 1).astype(np.float32) / 255
    states.flush()
    return {"num_frames": int((store.lengths[:episodes] + 1).sum())}


def raw_frames(store: EpisodeStore) -> Path:
    return store.path / "columns" / f"{FIELD}.bin"


def write_frames(side: int, folder: Path, gigabytes: float) -> EpisodeStore:
    """A raw store of so many bytes of frames."""
    collect(
        "scripted:qseq.environments.scripted:corrupted_expert",
        "qseq.environments.metaworld:qseq/metaworld-v3",
        {"task": "push-v3", "image_size": side},
        episodes=RENDERED[side],
        out=folder / "rendered",
    )
    rendered = EpisodeStore.open(folder / "rendered")
    with StoreWriter(folder / "frames", action_space=SPACE) as writer:
        writer.extend(changed_episodes(rendered, gigabytes * 1e9))
    return EpisodeStore.open(folder / "frames")


def changed_episodes(rendered: EpisodeStore, num_bytes: float) -> Iterator[Episode]:
    random = np.random.default_rng(0)
    written, index = 0, 0
    while written < num_bytes:
        episode = rendered.episode(index % rendered.num_episodes)
        frames = episode.observations["image"]
        if index >= rendered.num_episodes:
            height, width = random.integers(0, frames.shape[2], 2)
            frames = np.roll(frames, (height, width), axis=(2, 3))[:, random.permutation(3)]
        written, index = written + frames.nbytes, index + 1
        yield Episode(
            observations={FIELD: np.ascontiguousarray(frames)},
            actions=episode.actions,
            rewards=episode.rewards,
            terminated=episode.terminated,
            truncated=episode.truncated,
            instruction="push the puck to the goal",
        )


def quality(contender: Contender, store: EpisodeStore, copy: Path) -> dict[str, Any]:
    """How true the pictures of a store are, on frames of the first episode."""
    if contender.reader != "qseq":
        return {}
    frames = EpisodeStore.open(copy / "store").columns[FIELD][0:50]
    found = psnr(np.asarray(frames), np.asarray(store.columns[FIELD][0:50]))
    return {"psnr_db": "exact" if np.isinf(found) else round(found, 1)}


def summarise(measured: dict[str, Any], cold: bool) -> None:
    """What the goals are stated in."""

    def of(name: str, key: str) -> float | None:
        return measured.get(name, {}).get(key)

    goals: dict[str, Any] = {}
    # What a busy machine gives to others does not count; what is read from the disk does.
    rate = "windows_per_second" if cold else "windows_per_cpu_second"
    films = [of(name, rate) for name in ("lerobot-pyav", "lerobot-torchcodec")]
    fastest = max((value for value in films if value), default=None)
    film = of("lerobot-pyav", "bytes_a_frame") or of("lerobot-torchcodec", "bytes_a_frame")
    pairs = {
        "raw_rate_over_numpy_gather": (of("qseq-raw", rate), of("numpy-gather", rate)),
        "q_transformer_bytes_over_raw": (of("q-transformer", "bytes_a_frame"), of("qseq-raw", "bytes_a_frame")),
        "raw_rate_over_q_transformer": (of("qseq-raw", rate), of("q-transformer", rate)),
        "jpeg_bytes_over_film": (of("qseq-jpeg", "bytes_a_frame"), film),
        "jpeg_rate_over_film": (of("qseq-jpeg", rate), fastest),
    }
    if of("q-transformer", "frames") != of("qseq-raw", "frames"):
        del pairs["raw_rate_over_q_transformer"]  # what fits into memory is read faster, whoever reads it
    for name, (above, below) in pairs.items():
        if above and below:
            goals[name] = round(above / below, 2)
    measured["ratios"] = goals


def waiting(store: EpisodeStore, folder: Path, images: str) -> dict[str, Any]:
    """Share of the time in which a trainer of a vision model waits for its batch; two threads decode."""
    from qseq.configuration import load_config
    from qseq.episodes import EpisodeView
    from qseq.episodes.decoding_threads import set_decoding_threads
    from qseq.robot.algorithm import make_trainer
    from qseq.robot.config import QTransformerConfig
    from qseq.training.prefetch import Prefetcher

    convert(str(store.path), str(folder / "store"), images=images)
    set_decoding_threads(2)
    steps, batch = (12, 16) if store.schema.fields[FIELD].shape[1] < 100 else (6, 4)
    overrides = [
        f"data.fields=[{FIELD}]",
        f"data.history={FRAMES}",
        f"training.steps={steps}",
        f"training.batch_size={batch}",
        "training.trackers=[]",
        "training.threads=1",
    ]
    config = load_config(QTransformerConfig, overrides=overrides)
    waited: list[float] = []
    begun: list[float] = []
    plain = Prefetcher.next

    def timed(self: Prefetcher) -> Any:
        started = time.perf_counter()
        found = plain(self)
        if begun:  # the first batch is asked for before anything can be computed
            waited.append(time.perf_counter() - started)
        begun.append(time.perf_counter())
        return found

    Prefetcher.next = timed  # type: ignore[method-assign]
    try:
        make_trainer(config, EpisodeView(EpisodeStore.open(folder / "store")), run=folder / "run", seed=0).train()
    finally:
        Prefetcher.next = plain  # type: ignore[method-assign]
        shutil.rmtree(folder)
    total = begun[-1] - begun[0]
    return {
        "share_of_time_waiting": round(sum(waited) / total, 4),
        "seconds_a_step": round(total / (len(begun) - 1), 3),
        "batch": batch,
        "decoding_threads": 2,
    }


def bytes_on_disk(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def memory_limit_gb(control_group: Path | None) -> float:
    """Of a control group (its second or first version), or all memory without one."""
    if control_group is None:
        return memory_gb()
    newer = control_group / "memory.max"
    limit = newer if newer.exists() else control_group / "memory.limit_in_bytes"
    return round(int(limit.read_text()) / 1e9, 1)


def memory_gb() -> float:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)


if __name__ == "__main__":
    main()
