"""Films of episodes: mp4 files by PyAV, frames rendered only for the episodes that are filmed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from qseq.environments import DictObservation
from qseq.errors import RequestError


class VideoRecorder:
    """Writes `episode_0000.mp4`, ... for the first `episodes` episodes.

    Args:
        folder: created if needed.
        episodes: how many to film.
        frames_per_second: of playback; by default what the environment says, else 30.

    Raises:
        RequestError: PyAV is missing, or the environment gives no frames.
    """

    def __init__(self, folder: Path, episodes: int, frames_per_second: int | None = None) -> None:
        try:
            import av  # noqa: F401 (asked for now rather than after the first frame)
        except ImportError as error:
            raise RequestError('video needs PyAV: pip install "qseq[report]", or leave out --video') from error
        self._folder = folder
        self._episodes = episodes
        self._rate = frames_per_second
        self._films: dict[int, Film] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, index: int, env: DictObservation) -> None:
        """Add the present frame of episode `index`, if it is one of those filmed."""
        if index >= self._episodes:
            return
        frame = env.render()
        if not isinstance(frame, np.ndarray) or frame.ndim != 3:
            raise RequestError(f"video: the environment renders {type(frame).__name__}, expected RGB frames")
        if index not in self._films:
            rate = self._rate or int(env.metadata.get("render_fps") or 30)
            self._films[index] = Film(self._folder / f"episode_{index:04d}.mp4", rate)
        self._films[index].add(frame)

    def finish(self, index: int) -> None:
        """Episode `index` has ended: close its file."""
        film = self._films.pop(index, None)
        if film is not None:
            film.close()

    def close(self) -> None:
        """Close what is still open."""
        for index in list(self._films):
            self.finish(index)


class Film:
    """One mp4 file: H.264 where PyAV has an encoder for it, else MPEG-4."""

    def __init__(self, path: Path, rate: int) -> None:
        self._path = path
        self._rate = rate
        self._container: Any = None
        self._stream: Any = None

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        """Append a frame, uint8 [height, width, 3]."""
        import av

        # Encoders want even sides.
        frame = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        if self._container is None:
            self._container = av.open(str(self._path), "w")
            codec = "h264" if "libx264" in av.codecs_available else "mpeg4"
            self._stream = self._container.add_stream(codec, rate=self._rate)
            self._stream.height, self._stream.width = frame.shape[:2]
            self._stream.pix_fmt = "yuv420p"
        for packet in self._stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")):
            self._container.mux(packet)

    def close(self) -> None:
        """Write what the encoder holds back and close the file."""
        if self._container is None:
            return
        for packet in self._stream.encode():
            self._container.mux(packet)
        self._container.close()
        self._container = None
