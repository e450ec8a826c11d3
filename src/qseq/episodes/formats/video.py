"""Films of many episodes: frames appended one by one, and read forward from any time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import numpy as np

from qseq.errors import DataError

CODEC = "libsvtav1"
OPTIONS = {"crf": "30", "g": "2"}
"""AV1 as LeRobot itself writes it: a key frame every other frame, so that any frame is near one."""


_FORMATS = {3: "rgb24", 1: "gray"}


class FilmWriter:
    """One mp4 file of frames [height, width, 3] at a constant rate; sides must be even."""

    def __init__(self, path: Path, fps: Fraction, height: int, width: int) -> None:
        import av

        os.environ.setdefault("SVT_LOG", "1")  # errors only: the encoder prints its settings to stderr otherwise
        self.num_frames = 0
        self._path = path
        self._container: Any = av.open(str(path), "w", format="mp4")
        self._stream = cast(Any, self._container.add_stream(CODEC, rate=fps, options=OPTIONS))
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv420p"

    def add(self, frame_HWC: np.ndarray) -> None:
        import av

        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame_HWC), format="rgb24")
        with _ordinary_scheduling() if self.num_frames == 0 else nullcontext():  # the first frame opens the encoder
            packets = self._stream.encode(frame)
        self._container.mux(packets)
        self.num_frames += 1

    @property
    def num_bytes(self) -> int:
        """Of the file so far, which lags behind what was added."""
        return self._path.stat().st_size if self._path.exists() else 0

    def close(self) -> None:
        """Write what the encoder holds back."""
        if self._container is not None:
            self._container.mux(self._stream.encode())
            self._container.close()
            self._container = None


class FilmReader:
    """Frames of one file at ascending times; going back reopens it.

    Raises:
        DataError: not a film, or of another size than promised (before a frame is decoded).
    """

    def __init__(self, path: Path, shape: tuple[int, ...]) -> None:
        self.path = path
        self._shape = shape
        self._container: Any = None
        self._frames: Iterator[Any] = iter(())
        self._ahead: list[Any] = []
        self._position = np.inf

    def take(self, times: np.ndarray, tolerance: float) -> tuple[np.ndarray, int]:
        """The frames nearest to `times` (seconds, ascending).

        Returns:
            uint8 [T, height, width, 3] and how many frames were farther from their time than `tolerance`.

        Raises:
            DataError: the film is damaged or holds no frame.
        """
        import av

        result = np.empty((len(times), *self._shape), np.uint8)
        missing = 0
        try:
            if len(times) and times[0] < self._position:
                self._open(float(times[0]))
            for row, time in enumerate(times):
                while len(self._ahead) < 2 and (frame := next(self._frames, None)) is not None:
                    self._ahead.append(frame)
                while len(self._ahead) == 2 and abs(_time(self._ahead[1]) - time) <= abs(_time(self._ahead[0]) - time):
                    del self._ahead[0]
                    if (frame := next(self._frames, None)) is not None:
                        self._ahead.append(frame)
                if not self._ahead:
                    raise DataError(f"{self.path}: found no frame in it")
                far = abs(_time(self._ahead[0]) - time) > tolerance
                if far and len(self._ahead) == 1:
                    raise DataError(f"{self.path}: found no frame at {time:.3f} s: the film is cut short")
                missing += far
                pixels = self._ahead[0].to_ndarray(format=_FORMATS[self._shape[2]])
                result[row] = pixels.reshape(self._shape)
                self._position = _time(self._ahead[0])
        except (av.FFmpegError, ValueError, OSError, AttributeError) as error:  # AttributeError: no such codec
            raise DataError(f"{self.path} is damaged: it cannot be decoded ({error})") from error
        return result, missing

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            self._container = None

    def _open(self, time: float) -> None:
        import av

        self.close()
        self._container = av.open(str(self.path), "r", format="mp4")
        if not self._container.streams.video:
            raise DataError(f"{self.path}: found no video stream")
        stream = self._container.streams.video[0]
        if (stream.height, stream.width) != self._shape[:2] or self._shape[2] not in _FORMATS:
            raise DataError(
                f"{self.path}: found frames of {stream.height} x {stream.width}, "
                f"expected {self._shape[0]} x {self._shape[1]} in {' or '.join(map(str, _FORMATS))} channels"
            )
        if time > 0:
            self._container.seek(int(time / stream.time_base), stream=stream, backward=True)
        self._frames = self._container.decode(stream)
        self._ahead = []


@contextmanager
def _ordinary_scheduling() -> Iterator[None]:
    """Undo the real-time priority that SVT-AV1 gives its threads, and ours, where it may.

    It may as root, as in most containers; then a conversion takes the machine away from everything else on it.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it has ended since
                if os.sched_getscheduler(int(thread.name)) == os.SCHED_FIFO:
                    os.sched_setscheduler(int(thread.name), policy, parameters)


def _time(frame: Any) -> float:
    return float(frame.pts * frame.time_base)


def psnr(found: np.ndarray, expected: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures [T, ...] in dB, infinite where they are equal."""
    return decibels(sum(map(squared_error, found, expected)) / max(1, found.size))


def squared_error(found: np.ndarray, expected: np.ndarray) -> float:
    """The sum over one uint8 picture; many at once would need eight times their memory."""
    return float(np.square(found.astype(np.int32) - expected).sum(dtype=np.int64))


def decibels(mean_squared_error: float) -> float:
    return float("inf") if mean_squared_error == 0 else float(10 * np.log10(255**2 / mean_squared_error))
