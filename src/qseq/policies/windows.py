"""What objectives over action tokens read from a batch of windows.

Legend: B batch, F frames of history, A action tokens of one decision, M bootstrap horizons.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from qseq.actions import ActionTokenizer, ChunkTokens
from qseq.episodes import WindowBatch, WindowSpec


def decision_steps(tokenizer: ActionTokenizer) -> int:
    """Consecutive actions that make one decision."""
    return tokenizer.steps if isinstance(tokenizer, ChunkTokens) else 1


def decision_tokens_of(batch: WindowBatch, tokenizer: ActionTokenizer) -> tuple[Tensor, Tensor]:
    """Tokens int64 `[B, A]` of the decision at t, and weights `[B, A]`: 0 where a chunk outlasts its episode."""
    steps = decision_steps(tokenizer)
    chunked = isinstance(tokenizer, ChunkTokens)
    tokens_BA = tokenizer.encode(batch.actions[:, :steps] if chunked else batch.actions[:, 0])
    weights_BA = batch.step_mask[:, :steps].repeat_interleave(tokenizer.num_tokens // steps, dim=1)
    return tokens_BA, weights_BA.float()


def observation_at(batch: WindowBatch, spec: WindowSpec) -> dict[str, Tensor]:
    """The observation at t: every field `[B, F, *shape]`."""
    return frames_of(batch.frames, spec.observation_frames())


def observation_after(batch: WindowBatch, spec: WindowSpec, horizon: int) -> dict[str, Tensor]:
    """The observation at t + bootstrap_steps[horizon], or the episode's last: every field `[B, F, *shape]`."""
    return frames_of(batch.frames, spec.bootstrap_frames(horizon))


def frames_of(fields: Mapping[str, Tensor], frames: tuple[int, ...]) -> dict[str, Tensor]:
    """Some of the U frames of a window, or of what was made of each: `[B, U, ...]` -> `[B, len(frames), ...]`."""
    first, end = frames[0], frames[-1] + 1
    if frames == tuple(range(first, end)):  # a view, where picking single frames copies
        return {name: values[:, first:end] for name, values in fields.items()}
    return {name: values[:, list(frames)] for name, values in fields.items()}
