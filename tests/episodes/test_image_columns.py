"""Compressed pictures: rows are those of the raw column, only the frames asked for are decoded, damage is named."""

from __future__ import annotations

import json
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.cli.main import main
from qseq.episodes import Episode, EpisodeStore, EpisodeView, StoreWriter, Windows, WindowSpec, convert
from qseq.episodes.codings import ImageCoding
from qseq.episodes.decoding_threads import for_parts, set_decoding_threads
from qseq.episodes.formats.video import psnr
from qseq.episodes.image_column import INDEX_ENTRY, ImageColumn
from qseq.errors import DataError, RequestError

from .builders import BOX, contents, make_episode

pytest.importorskip("simplejpeg")

LENGTHS = [3, 1, 6, 4]
FRAMES = [steps + 1 for steps in LENGTHS]


def pictures(frames: int, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Smooth pictures (so that JPEG keeps them) with a stripe that tells the frame."""
    layout_last = shape[-1] in (1, 3, 4)
    height, width, channels = shape if layout_last else (*shape[1:], shape[0])
    y, x = np.mgrid[:height, :width]
    base = 60 + 80 * np.sin((x + seed) / 9) + 60 * np.cos(y / 7)
    frames_NHWC = np.stack([np.repeat(base[..., None], channels, -1)] * frames)
    frames_NHWC[:, :4] = (np.arange(frames) * 20 % 256)[:, None, None, None]
    frames_NHWC = frames_NHWC.clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(frames_NHWC if layout_last else np.moveaxis(frames_NHWC, -1, 1))


def make_camera_store(path: Path, images: str | None, shape: tuple[int, ...] = (3, 24, 32), **options: Any) -> Path:
    with StoreWriter(path, action_space=BOX, images=images, **options) as writer:
        for index, steps in enumerate(LENGTHS):
            writer.add(camera_episode(index, steps, shape))
    return path


def camera_episode(index: int, steps: int, shape: tuple[int, ...] = (3, 24, 32)) -> Episode:
    state = np.arange(steps + 1, dtype=np.float32)[:, None] + 100 * index
    return make_episode(steps, index, observations={"state": state, "eye": pictures(steps + 1, shape, index)})


@pytest.mark.parametrize("images", ["png", "jpeg", "jpeg:95"])
@pytest.mark.parametrize("shape", [(3, 24, 32), (24, 32, 3), (1, 16, 24), (17, 23, 1)])
def test_rows_are_those_of_the_raw_column(images: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    raw = np.asarray(EpisodeStore.open(make_camera_store(tmp_path / "raw", "raw", shape)).columns["eye"])
    store = EpisodeStore.open(make_camera_store(tmp_path / "small", images, shape))
    column = store.columns["eye"]
    assert isinstance(column, ImageColumn)
    assert column.shape == raw.shape
    store.verify()
    decoded = np.asarray(column)
    assert decoded.dtype == np.uint8
    if images == "png":
        np.testing.assert_array_equal(decoded, raw)
    else:
        assert psnr(decoded, raw) > 35
    rows = np.array([[5, 5, 0], [17, 2, 5]])
    np.testing.assert_array_equal(column.take(rows, axis=0), decoded[rows])
    np.testing.assert_array_equal(column[3:9:2], decoded[3:9:2])
    np.testing.assert_array_equal(column[np.array([-1, 4])], decoded[[-1, 4]])
    np.testing.assert_array_equal(column[7], decoded[7])
    assert column[2:2].shape == (0, *shape)
    np.testing.assert_array_equal(store.episode(2).observations["eye"], decoded[6:13])


@pytest.mark.parametrize(("quality", "step"), [(1, 255), (25, 100), (50, 50), (75, 25), (90, 10), (100, 1)])
def test_jpeg_rounds_every_frequency_to_the_same_step(quality: int, step: int) -> None:
    """Grey noise has all frequencies alike: rounding to multiples of a step leaves a variance of step^2 / 12. (What
    is far coarser rounds most of the noise away, and errs by the noise.)
    """
    coding = ImageCoding("jpeg", quality)
    assert coding.rounding_step == step
    noise_HWC = np.random.default_rng(0).normal(128, 30, (64, 64, 1)).clip(0, 255).astype(np.uint8)
    decoded_HWC = np.empty_like(noise_HWC)
    coding.decode(np.frombuffer(coding.encode(noise_HWC), np.uint8), decoded_HWC, lambda: "noise")
    error = np.mean((decoded_HWC.astype(float) - noise_HWC) ** 2)
    expected = step**2 / 12
    assert error == pytest.approx(expected, rel=0.1, abs=0.1) if step <= 50 else error < expected


def test_each_frame_asked_for_is_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = EpisodeStore.open(make_camera_store(tmp_path / "s", "jpeg"))
    decoded = []
    decode = ImageCoding.decode

    def counting(self: ImageCoding, content: np.ndarray, *rest: Any) -> None:
        decoded.append(content.nbytes)
        decode(self, content, *rest)

    monkeypatch.setattr(ImageCoding, "decode", counting)
    store.columns["eye"].take(np.array([[0, 0, 0, 1], [1, 2, 2, 9]]))
    assert len(decoded) == 4
    windows = Windows(EpisodeView(store), WindowSpec(history=2), batch_size=2, seed=0, discount=0.9, fields=["state"])
    windows.batch_at(0)
    assert len(decoded) == 4  # nobody asked for pictures


def test_windows_are_the_same_in_every_coding_and_number_of_threads(tmp_path: Path) -> None:
    spec = WindowSpec(history=3, bootstrap_steps=(1, 2))
    views = [
        EpisodeView(EpisodeStore.open(make_camera_store(tmp_path / images.replace(":", ""), images)))
        for images in ("raw", "png")
    ]
    mixed = EpisodeView([views[0].stores[0], views[1].stores[0]])
    assert mixed.num_episodes == 8  # how pictures are kept is no difference between fields
    try:
        for threads in (1, 3):
            set_decoding_threads(threads)
            first, second = (
                Windows(view, spec, batch_size=13, seed=1, discount=0.9).batch_at(3).frames["eye"] for view in views
            )
            assert first.equal(second)
            both = Windows(mixed, spec, batch_size=56, seed=1, discount=0.9, shuffle=False)
            halves = both.batch_at(0).frames["eye"]
            assert halves[:14].equal(halves[14:28])
    finally:
        set_decoding_threads(0)


def test_a_forked_process_decodes(tmp_path: Path) -> None:
    store = EpisodeStore.open(make_camera_store(tmp_path / "s", "jpeg"))
    set_decoding_threads(3)
    try:
        expected = zlib.crc32(store.columns["eye"][:])
        child = os.fork()
        if child == 0:
            os._exit(0 if zlib.crc32(store.columns["eye"][:]) == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        set_decoding_threads(0)


def test_errors_of_threads_are_raised() -> None:
    def fail(part: np.ndarray) -> None:
        if 30 in part:
            raise DataError("thirty")

    set_decoding_threads(4)
    try:
        with pytest.raises(DataError, match="thirty"):
            for_parts(fail, np.arange(32))
    finally:
        set_decoding_threads(0)


def damage(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 0x10
    path.write_bytes(content)


@pytest.mark.parametrize("images", ["png", "jpeg"])
def test_a_flipped_bit_is_named(images: str, tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", images)
    index = np.fromfile(tmp_path / "s/columns/eye.index", INDEX_ENTRY)
    damage(tmp_path / "s/columns/eye.bin", int(index["end"][8]) - 20)  # frame 8: episode 2, step 2
    store = EpisodeStore.open(tmp_path / "s")
    for read in (store.verify, lambda: store.columns["eye"].take(np.array([3, 8])), lambda: store.episode(2)):
        with pytest.raises(DataError, match=r"episode 2: field 'eye', step 2: found checksum"):
            read()
    store.episode(1)


@pytest.mark.parametrize("byte", range(12))
def test_a_flipped_bit_among_the_places_is_named(byte: int, tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", "jpeg")
    damage(tmp_path / "s/columns/eye.index", 8 * INDEX_ENTRY.itemsize + byte)
    with pytest.raises(DataError, match=r"episode 2: field 'eye', step 2"):
        EpisodeStore.open(tmp_path / "s").verify()


@pytest.mark.parametrize("name", ["eye.bin", "eye.index"])
def test_a_file_cut_short_is_named(name: str, tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", "jpeg")
    path = tmp_path / "s/columns" / name
    path.write_bytes(path.read_bytes()[:-1])
    for attempt in (EpisodeStore.open, StoreWriter):
        with pytest.raises(DataError, match=f"{name} is damaged: found .* bytes, expected"):
            attempt(tmp_path / "s")
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        EpisodeStore.open(tmp_path / "s")


def lie(folder: Path, shape: list[int]) -> None:
    """A schema whose checksum is right and whose pictures have another size than their files."""
    path = folder / "schema.json"
    body = json.loads(path.read_bytes())
    del body["crc32"]
    body["fields"]["eye"]["shape"] = shape
    crc = zlib.crc32(json.dumps(body, sort_keys=True, separators=(",", ":")).encode())
    path.write_text(json.dumps({**body, "crc32": crc}))


@pytest.mark.parametrize("images", ["png", "jpeg"])
def test_sizes_are_checked_before_memory_is_asked_for(images: str, tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", images)
    lie(tmp_path / "s", [3, 60000, 60000])
    with pytest.raises(DataError, match="found a picture of 32 x 24, expected 60000 x 60000"):
        EpisodeStore.open(tmp_path / "s")
    lie(tmp_path / "s", [3, 10**9, 10**9])
    with pytest.raises(DataError, match="no such picture"):
        EpisodeStore.open(tmp_path / "s")


def test_a_foreign_file_among_the_frames_is_refused(tmp_path: Path) -> None:
    """One whose checksum is right: only decoding tells."""
    make_camera_store(tmp_path / "s", "jpeg")
    files = tmp_path / "s/columns/eye.bin", tmp_path / "s/columns/eye.index"
    content, index = bytearray(files[0].read_bytes()), np.fromfile(files[1], INDEX_ENTRY)
    start, end = int(index["end"][7]), int(index["end"][8])
    for wrong in (b"\x00" * (end - start), bytes(content[start : end - 40]) + b"\x00" * 40):
        content[start:end] = wrong
        index["crc32"][8] = zlib.crc32(wrong)
        files[0].write_bytes(content)
        index.tofile(files[1])
        with pytest.raises(DataError, match=r"episode 2: field 'eye', step 2: the picture cannot be decoded"):
            EpisodeStore.open(tmp_path / "s").columns["eye"].take(np.arange(10))


def test_what_a_killed_writer_left_is_cut_away(tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", "jpeg")
    whole = contents(tmp_path / "s")
    for name in ("eye.bin", "eye.index", "state.bin"):
        with (tmp_path / "s/columns" / name).open("ab") as file:
            file.write(b"half of a frame")
    EpisodeStore.open(tmp_path / "s").verify()
    with StoreWriter(tmp_path / "s"):
        assert contents(tmp_path / "s") == whole
    with StoreWriter(tmp_path / "s", images="jpeg") as writer:
        writer.add(camera_episode(4, 5))
    store = EpisodeStore.open(tmp_path / "s")
    store.verify()
    expected = pictures(6, (3, 24, 32), 4)
    assert psnr(store.episode(4).observations["eye"], expected) > 35


def test_a_store_keeps_its_coding(tmp_path: Path) -> None:
    make_camera_store(tmp_path / "s", "jpeg")
    assert EpisodeStore.open(tmp_path / "s").schema.codings == {"eye": "jpeg:75"}
    for other in ("raw", "png", "jpeg:90"):
        with pytest.raises(RequestError, match="expected what the store has"):
            StoreWriter(tmp_path / "s", images=other)
    make_camera_store(tmp_path / "raw", None)
    with pytest.raises(RequestError, match="raw"):
        StoreWriter(tmp_path / "raw", images="jpeg")


@pytest.mark.parametrize("images", ["gif", "jpeg:0", "jpeg:101", "jpeg:", "png:3", ""])
def test_unknown_codings_are_refused(images: str, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="images: found"):
        StoreWriter(tmp_path / "s", action_space=BOX, images=images)
    assert not (tmp_path / "s").exists()


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = make_camera_store(tmp_path / "raw", "raw")
    assert main(["convert", str(source), str(tmp_path / "j"), "--images", "jpeg:90"]) == 0
    assert main(["convert", str(tmp_path / "j"), str(tmp_path / "k"), "--images", "jpeg"]) == 0
    assert "compressed a second time: eye" in capsys.readouterr().out
    assert main(["convert", str(tmp_path / "j"), str(tmp_path / "back")]) == 0
    assert EpisodeStore.open(tmp_path / "back").schema.codings == {}
    assert main(["inspect", str(tmp_path / "j"), "--json"]) == 0
    assert '"coding": "jpeg:90"' in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "j"), "--html", str(tmp_path / "page.html")]) == 0
    out = str(tmp_path / "c")
    assert main(["collect", "--env", "CartPole-v1", "--episodes", "1", "--images", "jpeg", "--out", out]) == 2
    assert "none of the fields ['state'] fits" in capsys.readouterr().err
    grid = "tests.environments.toys:toys/grid-v0"
    assert main(["collect", "--env", grid, "--episodes", "2", "--images", "png", "--out", str(tmp_path / "g")]) == 0
    assert EpisodeStore.open(tmp_path / "g").schema.codings == {"camera": "png"}
    damage(tmp_path / "g/columns/camera.bin", 30)
    assert main(["inspect", str(tmp_path / "g")]) == 2
    assert "episode 0: field 'camera', step 0" in capsys.readouterr().err


def test_lerobot_from_compressed_pictures(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    source = make_camera_store(tmp_path / "s", "png")
    convert(str(source), f"lerobot:{tmp_path / 'l'}", images="png")
    convert(f"lerobot:{tmp_path / 'l'}", str(tmp_path / "t"), images="png")
    first, second = EpisodeStore.open(source), EpisodeStore.open(tmp_path / "t")
    np.testing.assert_array_equal(first.columns["eye"][:], second.columns["eye"][:])
