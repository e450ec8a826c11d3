"""Files made to hurt: refused in one line, without running, allocating or reading what they name."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.episodes import EpisodeStore, convert
from qseq.episodes.formats.hdf5_safety import check_hdf5
from qseq.episodes.formats.images import decode_image
from qseq.episodes.formats.lerobot_layout import path_of
from qseq.errors import DataError

from .builders import assert_same
from .lerobot_builders import make_camera_store
from .test_lerobot import GENUINE, change_info, rewrite
from .test_robomimic import write as write_robomimic

h5py = pytest.importorskip("h5py")
pyarrow = pytest.importorskip("pyarrow")
from pyarrow import parquet  # noqa: E402

MOST = 200 * 2**20
FILES = ["data/*/*.parquet", "meta/episodes/*/*.parquet", "meta/tasks.parquet", "videos/*/*/*"]


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("QSEQ_PROGRESS", "0")
    (tmp_path / "secret.bin").write_bytes(b"secret" * 100)


class Bomb:
    """Leaves a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def refused(source: str, tmp_path: Path, message: str) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match=message) as caught:
            convert(source, str(tmp_path / "out"))
        assert tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "ran").exists()
    assert not list(tmp_path.glob(".*"))


def external_link(file: Any, tmp_path: Path) -> None:
    with h5py.File(tmp_path / "other.hdf5", "w") as other:
        other["obs"] = np.zeros(3)
    file["data/demo_0/stolen"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/obs")


def external_storage(file: Any, tmp_path: Path) -> None:
    stolen = [(str(tmp_path / "secret.bin"), 0, 600)]
    file["data/demo_0"].create_dataset("obs/stolen", (4, 150), "u1", external=stolen)


def virtual(file: Any, tmp_path: Path) -> None:
    layout = h5py.VirtualLayout((4, 3), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.hdf5"), "x", (4, 3))
    file["data/demo_0"].create_virtual_dataset("obs/stolen", layout)


def soft_link(file: Any, tmp_path: Path) -> None:
    file["data/demo_0/loop"] = h5py.SoftLink("/data")


def huge(file: Any, tmp_path: Path) -> None:
    file["data/demo_0"].create_dataset("obs/huge", (4, 10**11), "f8", chunks=(1, 10**4))


def references(file: Any, tmp_path: Path) -> None:
    file["data/demo_0"].create_dataset("obs/references", (4,), h5py.ref_dtype)


def opaque(file: Any, tmp_path: Path) -> None:
    content = np.frombuffer(pickle.dumps(Bomb(tmp_path / "ran")), np.uint8)
    file["data/demo_0"]["obs/pickle"] = np.array([np.void(content.tobytes())] * 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (external_link, "found a ExternalLink, expected data in the file itself"),
        (external_storage, "found data kept in another file"),
        (virtual, "found data kept in another file"),
        (soft_link, "found a SoftLink"),
        (huge, "claims shape .4, 100000000000."),
        (references, "expected numbers or text"),
        (opaque, "expected numbers or text"),
    ],
)
def test_hdf5(tmp_path: Path, make: Callable[[Any, Path], None], message: str) -> None:
    path = write_robomimic(tmp_path / "a.hdf5", 2)
    with h5py.File(path, "r+") as file:
        make(file, tmp_path)
    refused(f"robomimic:{path}", tmp_path, message)


def test_minari_files_are_looked_at_before_minari_opens_them(tmp_path: Path) -> None:
    folder = tmp_path / "a-v0" / "data"
    folder.mkdir(parents=True)
    (folder / "metadata.json").write_text("{}")
    with h5py.File(folder / "main_data.hdf5", "w") as file:
        file["episode_0"] = h5py.ExternalLink(str(tmp_path / "secret.bin"), "/")
    refused(f"minari:{tmp_path / 'a-v0'}", tmp_path, "found a ExternalLink")


def test_honest_compression_is_let_through(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file.create_dataset("zeros", data=np.zeros((1000, 10_000), np.uint8), compression="gzip", compression_opts=9)
        file.create_dataset("texts", data=["a", "b"], dtype=h5py.string_dtype())
        frames = file.create_dataset("frames", (1,), dtype=h5py.vlen_dtype(np.uint8))  # as Minari keeps JPEG
        frames[0] = np.zeros(3, np.uint8)
    check_hdf5(tmp_path / "a.hdf5")


@pytest.mark.parametrize(
    "template",
    [
        "../secret.bin",
        "/etc/passwd",
        "~/x",
        "data/../../x.parquet",
        "data/{chunk_index.__class__}.parquet",
        "data/{chunk_index:099999999d}.parquet",
        "data/{0}.parquet",
        "data/{secret}.parquet",
        "a\0b",
        "",
    ],
)
def test_paths_stay_inside(tmp_path: Path, template: str) -> None:
    with pytest.raises(DataError):
        path_of(tmp_path, template, chunk_index=0, file_index=0)
    with pytest.raises(DataError):
        path_of(tmp_path, "videos/{video_key}/x.mp4", video_key="../../x")


def test_the_real_templates() -> None:
    data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
    assert path_of(Path("r"), data, chunk_index=1, file_index=23) == Path("r/data/chunk-001/file-023.parquet")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return shutil.copytree(GENUINE, tmp_path / "l")


def features(root: Path) -> Any:
    return json.loads((root / "meta/info.json").read_text())["features"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_path": "../../secret.bin"}, "expected one below the data set's folder"),
        ({"video_path": "/etc/passwd"}, "expected one below the data set's folder"),
        ({"total_episodes": 10**15}, "found 3 episodes"),
        ({"total_frames": 10**30}, "found 3 episodes"),
        ({"fps": 0}, "expected a positive number"),
        ({"fps": "nan"}, "expected a positive number"),
        ({"features": []}, "cannot be read as the description"),
        ({"features": {"action": {"dtype": "O", "shape": [2]}}}, "cannot be read as the description"),
    ],
)
def test_lerobot_descriptions(tmp_path: Path, root: Path, changes: dict[str, Any], message: str) -> None:
    change_info(root, **changes)
    refused(f"lerobot:{root}", tmp_path, message)


@pytest.mark.parametrize(
    ("key", "shape", "message"),
    [
        ("observation.state", [10**12], "no more than"),
        ("observation.state", [2**62, 2**62], "no more than"),
        ("observation.images.front", [100_000, 100_000, 3], "no more than"),
        ("observation.images.front", [640, 640, 3], "found frames of 64 x 64"),
        ("observation.images.wrist", [640, 640, 3], "found a picture of 64 x 64"),
        ("observation.state", [4], "found 15 numbers in 5 rows"),
    ],
)
def test_lerobot_shapes(tmp_path: Path, root: Path, key: str, shape: list[int], message: str) -> None:
    found = features(root)
    found[key]["shape"] = shape
    change_info(root, features=found)
    refused(f"lerobot:{root}", tmp_path, message)


def test_pickled_objects_in_parquet(tmp_path: Path, root: Path) -> None:
    path = root / "data/chunk-000/file-000.parquet"
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))

    def arm(table: Any) -> Any:
        index = table.schema.get_field_index("action")
        armed = table.set_column(index, "action", pyarrow.array([bomb] * len(table)))
        # What pickling extension types of old Arrow versions looked like.
        kind = {b"ARROW:extension:name": b"arrow.py_extension_type", b"ARROW:extension:metadata": bomb}
        field = armed.schema.field(index).with_metadata(kind)
        return armed.cast(armed.schema.set(index, field))

    rewrite(path, arm)
    refused(f"lerobot:{root}", tmp_path, "field 'action': found")


def test_run_lengths_that_unpack_to_gigabytes(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of zeros is a few kilobytes of Parquet (here a million, against a limit as much smaller)."""
    monkeypatch.setattr("qseq.episodes.formats.parquet.MOST_GROUP_BYTES", 2**20)
    path = root / "meta/episodes/chunk-000/file-000.parquet"
    zeros = pyarrow.array(np.zeros(2**20, np.int64))
    parquet.write_table(pyarrow.table(dict.fromkeys(parquet.read_schema(path).names, zeros)), path)
    assert parquet.read_metadata(path).row_group(0).total_byte_size < 2**20
    change_info(root, total_episodes=2**40)
    refused(f"lerobot:{root}", tmp_path, "row group 0 claims 8388608 bytes")


def test_a_row_group_that_claims_too_much(tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qseq.episodes.formats.parquet.MOST_GROUP_BYTES", 100)
    refused(f"lerobot:{root}", tmp_path, "row group 0 claims")


@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
@pytest.mark.parametrize(
    "name", ["data/*/*.parquet", "meta/episodes/*/*.parquet", "meta/tasks.parquet", "videos/*/*/*"]
)
def test_cut_files(tmp_path: Path, root: Path, name: str, keep: float) -> None:
    (path,) = root.glob(name)
    path.write_bytes(path.read_bytes()[: int(keep * path.stat().st_size)])
    refused(f"lerobot:{root}", tmp_path, path.name)


@pytest.mark.parametrize(
    "name", ["data/*/*.parquet", "meta/episodes/*/*.parquet", "meta/tasks.parquet", "videos/*/*/*"]
)
def test_missing_files(tmp_path: Path, root: Path, name: str) -> None:
    (path,) = root.glob(name)
    path.unlink()
    refused(f"lerobot:{root}", tmp_path, path.name if name[0] != "m" or "tasks" in name else "found no Parquet file")


def test_episodes_in_the_wrong_rows(tmp_path: Path, root: Path) -> None:
    def swap(table: Any) -> Any:
        return pyarrow.concat_tables([table.slice(5, 6), table.slice(0, 5), table.slice(11)])

    rewrite(root / "data/chunk-000/file-000.parquet", swap)
    refused(f"lerobot:{root}", tmp_path, "episode 0, frame 0: found episode_index 1")


def png(width: int, height: int) -> bytes:
    """A few bytes that claim to be a picture of that size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (png(60_000, 60_000), "picture"),
        (png(8, 8)[:40], "cannot be decoded"),
        (png(8, 8), "cannot be decoded"),
        (b"GIF89a" + bytes(100), "cannot be decoded"),
        (b"", "cannot be decoded"),
        (b"%!PS-Adobe\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) run\n", "cannot be decoded"),
    ],
)
def test_pictures(content: bytes, message: str) -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match=message):
        decode_image(content, (8, 8, 3), "here")
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_flipped_bits_are_named_or_harmless(tmp_path: Path) -> None:
    """One bit anywhere: refused in one line, or what was flipped is in no page that is read."""
    make_camera_store(tmp_path / "s", 4)
    convert(str(tmp_path / "s"), f"lerobot:{tmp_path / 'l'}", images="png")
    write_robomimic(tmp_path / "r.hdf5", 2)
    parts = [*(tmp_path / "l").rglob("*.parquet"), tmp_path / "l" / "meta" / "qseq.json", tmp_path / "r.hdf5"]
    expected = EpisodeStore.open(tmp_path / "s")
    chance = random.Random(0)
    refusals = 0
    for _ in range(60):
        path = chance.choice(parts)
        content = bytearray(path.read_bytes())
        place, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        content[place] ^= bit
        path.write_bytes(content)
        source = f"robomimic:{path}" if path.suffix == ".hdf5" else f"lerobot:{tmp_path / 'l'}"
        try:
            convert(source, str(tmp_path / "out"))
            found = EpisodeStore.open(tmp_path / "out")
            if path.suffix != ".hdf5":  # those have no checksums
                for index in range(4):
                    assert_same(found.episode(index), expected.episode(index))
        except DataError:
            refusals += 1
        shutil.rmtree(tmp_path / "out", ignore_errors=True)
        content[place] ^= bit
        path.write_bytes(content)
    assert refusals > 15
