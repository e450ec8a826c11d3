"""Videos and camera frames as data inside the page."""

from __future__ import annotations

import base64
import io
from html import escape
from pathlib import Path

import numpy as np

LARGEST_VIDEO = 6 * 2**20  # bytes; a page of several runs should still open at once


def embed_video(path: Path) -> str:
    """A ``<video>`` element that holds the file itself."""
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<video controls muted loop playsinline preload="metadata" aria-label="{escape(path.stem, quote=True)}" '
        f'src="data:video/mp4;base64,{data}"></video>'
    )


def pick_video(videos: list[Path]) -> Path | None:
    """The first that is small enough to put into a page."""
    return next((video for video in videos if video.stat().st_size <= LARGEST_VIDEO), None)


def embed_image(pixels: np.ndarray, description: str) -> str:
    """An ``<img>`` element from uint8 pixels [height, width, 3]."""
    from matplotlib.image import imsave

    buffer = io.BytesIO()
    imsave(buffer, pixels, format="png")
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f'<img alt="{escape(description, quote=True)}" src="data:image/png;base64,{data}">'


def film_strip(frames: np.ndarray, count: int = 6) -> np.ndarray:
    """`count` frames from first to last side by side: uint8 [T, H, W, 3] or [T, 3, H, W] -> [H, count * W, 3]."""
    if frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    chosen = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return np.concatenate(list(frames[chosen]), axis=1)
