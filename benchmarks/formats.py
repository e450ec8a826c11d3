"""What other formats cost: bytes, seconds, memory and exactness of each conversion, and of pictures in each coding.

    python benchmarks/formats.py [DATA ...] [--out benchmarks/results/formats.json]

DATA are stores with cameras; without any, episodes of BabyAI (56 pixels) and Meta-World (64 and 224) are collected
first. Every conversion runs in a process of its own.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from _machine import write_report
from qseq.episodes import EpisodeStore
from qseq.episodes.codings import picture_layout
from qseq.episodes.formats.video import psnr
from qseq.evaluation.collect import collect, collect_recipe

CONVERT = """
import json, sys, time
from qseq.episodes import convert
import av, h5py, minari, pyarrow.parquet
def peak():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024
before = peak()
start = time.perf_counter()
done = convert(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "grown_mb": peak() - before, "notes": done.notes}))
"""
PICTURES = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", nargs="*", type=Path)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/formats.json"))
    arguments = parser.parse_args()
    Path("runs").mkdir(exist_ok=True)
    results = []
    collected = Path(tempfile.mkdtemp(dir="runs", prefix="formats-data-"))
    for path in arguments.data or collect_data(collected):
        folder = Path(tempfile.mkdtemp(dir="runs", prefix="formats-benchmark-")).absolute()
        try:
            results.append(measure(path, folder))
        finally:
            shutil.rmtree(folder)
    shutil.rmtree(collected)
    report = {
        "data": results,
        "note": "one process; encoders may use both cores; grown_mb: resident memory over that after importing, "
        "mapped pages of the store included",
        "machine": {"cores": os.cpu_count(), "system": platform.system()},
        "versions": {name: version(name) for name in ("numpy", "pyarrow", "av", "pillow", "h5py", "minari")}
        | {"python": platform.python_version()},
    }
    write_report(report, arguments.out)


def collect_data(folder: Path) -> list[Path]:
    """Pictures of a small and a usual size, by faulty experts."""
    collect_recipe("corrupted", "PickupLoc", episodes=120, out=folder / "babyai-56")
    for side, episodes in ((64, 20), (224, 6)):
        collect(
            "scripted:qseq.environments.scripted:corrupted_expert",
            "qseq.environments.metaworld:qseq/metaworld-v3",
            {"task": "push-v3", "image_size": side},
            episodes=episodes,
            out=folder / f"metaworld-{side}",
        )
    return sorted(folder.iterdir())


def measure(path: Path, folder: Path) -> dict[str, Any]:
    store = EpisodeStore.open(path)
    steps = [
        ("lerobot, video", str(path), f"lerobot:{folder / 'video'}", {"images": "video"}),
        ("lerobot, png", str(path), f"lerobot:{folder / 'png'}", {"images": "png"}),
        ("minari", str(path), f"minari:{folder / 'minari' / 'copy-v0'}", {}),
        ("store from lerobot, video", f"lerobot:{folder / 'video'}", str(folder / "from-video"), {}),
        ("store from lerobot, png", f"lerobot:{folder / 'png'}", str(folder / "from-png"), {}),
        ("store from minari", f"minari:{folder / 'minari' / 'copy-v0'}", str(folder / "from-minari"), {}),
        ("store from store", str(path), str(folder / "copy"), {}),
    ]
    conversions = {}
    for name, source, destination, options in steps:
        command = [sys.executable, "-c", CONVERT, source, destination, json.dumps(options)]
        done = json.loads(subprocess.check_output(command, env={**os.environ, "QSEQ_PROGRESS": "0"}))
        quality = [float(found[1]) for note in done["notes"] if (found := re.search(r"PSNR ([\d.]+) dB", note))]
        conversions[name] = {
            "mb": round(size(Path(destination.rpartition(":")[2])) / 1e6, 2),
            "steps_per_second": round(store.num_steps / done["seconds"]),
            "grown_mb": round(done["grown_mb"], 1),
            **({"psnr_db": min(quality)} if quality else {}),
        }
    exact = all(same(store, folder / name) for name in ("from-png", "from-minari", "copy"))
    return {
        "data": path.name,
        "episodes": store.num_episodes,
        "steps": store.num_steps,
        "store_mb": round(size(path) / 1e6, 2),
        "exact_but_for_films": exact,
        "conversions": conversions,
        "codings": {name: codings(store, name) for name, spec in store.schema.fields.items() if picture_layout(spec)},
    }


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def same(store: EpisodeStore, path: Path) -> bool:
    other = EpisodeStore.open(path)
    return other.schema.columns == store.schema.columns and all(
        np.array_equal(other.columns[name], store.columns[name]) for name in store.columns
    )


def codings(store: EpisodeStore, name: str) -> dict[str, Any]:
    """Bytes a picture and pictures a second of each coding, on pictures spread over the data; decoding by Pillow."""
    rows = np.linspace(0, store.num_frames - 1, min(PICTURES, store.num_frames)).astype(int)
    frames = np.asarray(store.columns[name])[rows]
    if picture_layout(store.schema.fields[name]) == "first":
        frames = np.moveaxis(frames, 1, -1)
    frames = np.ascontiguousarray(frames)
    result: dict[str, Any] = {"shape": list(frames.shape[1:]), "raw": {"bytes": int(frames[0].nbytes)}}
    start = time.perf_counter()
    for row in np.random.default_rng(0).permutation(len(frames)):
        frames[row].copy()
    result["raw"]["decoded_per_second"] = round(len(frames) / (time.perf_counter() - start))
    options: dict[str, dict[str, Any]] = {
        "png": {"format": "PNG"},
        "jpeg q95": {"format": "JPEG", "quality": 95, "subsampling": 0},
        "jpeg q95 4:2:0": {"format": "JPEG", "quality": 95},
    }
    for coding, keywords in options.items():
        start = time.perf_counter()
        files = [encode(frame, keywords) for frame in frames]
        encoded = time.perf_counter() - start
        start = time.perf_counter()
        decoded = np.stack([np.asarray(Image.open(io.BytesIO(file))) for file in files])
        seconds = time.perf_counter() - start
        quality = psnr(decoded, frames)
        result[coding] = {
            "bytes": round(sum(map(len, files)) / len(files)),
            "encoded_per_second": round(len(files) / encoded),
            "decoded_per_second": round(len(files) / seconds),
            "psnr_db": "exact" if np.isinf(quality) else round(quality, 1),
        }
    return result


def encode(frame: np.ndarray, keywords: dict[str, Any]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, **keywords)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
