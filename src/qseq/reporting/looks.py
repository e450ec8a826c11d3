"""Frames of an episode, where a policy looks in them, and what it thinks of every action there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from qseq.reporting import figures
from qseq.reporting.page import figure

if TYPE_CHECKING:
    from qseq.episodes import Episode

FRAMES = 4
NOTE = (
    "Left: frames of the episode. Middle: where the scores of what was done come from; brighter counts more. "
    "Right: Q over the bins of each action dimension at that step; dots are what was done."
)


def look_blocks(
    policy: Any, method: str, episode: Episode, values: np.ndarray, tokens: np.ndarray, names: Sequence[str]
) -> str:
    """A figure for each camera; nothing for a policy without.

    Args:
        policy: has `attention`, see `TokenPolicy.attention`.
        values: float [T, A, K].
        tokens: int [T, A].
        names: of the A dimensions.
    """
    observations = {name: frames[:-1] for name, frames in episode.observations.items()}
    attention = policy.attention(
        observations, episode.instruction if policy.takes_instructions else None, episode.actions
    )
    steps = np.unique(np.linspace(0, episode.num_steps - 1, FRAMES).round().astype(int))
    blocks = [
        figure(
            figures.draw_looks(
                seen_pictures(observations[camera][steps], policy.spec.crop),
                places[steps],
                values[steps],
                tokens[steps],
                steps.tolist(),
                names,
                f"What {method} looks at, {camera}",
            ),
            NOTE,
        )
        for camera, places in attention.items()
    ]
    return "".join(blocks)


def seen_pictures(frames_TCHW: np.ndarray, crop: int) -> np.ndarray:
    """Frames as people look at them, uint8 [T, H, W, 3], and only the part that a policy sees."""
    height, width = frames_TCHW.shape[2:]
    if crop:
        top, left = (height - crop) // 2, (width - crop) // 2
        frames_TCHW = frames_TCHW[:, :, top : top + crop, left : left + crop]
    pictures = frames_TCHW[:, :3] if frames_TCHW.shape[1] >= 3 else frames_TCHW[:, :1].repeat(3, axis=1)
    if pictures.dtype != np.uint8:
        pictures = (255 * pictures).clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(pictures.transpose(0, 2, 3, 1))
