"""Episodes: what happened, how it is kept on disk, and how training reads it.

Names that need torch (`ReplayMemoryDataset`, `Windows`, `WindowBatch`) are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qseq.episodes.action_space import ActionSpace
from qseq.episodes.episode import Episode
from qseq.episodes.past_actions import PAST_ACTIONS, PastActions
from qseq.episodes.recorded import RecordedEpisode
from qseq.episodes.returns import returns_to_go
from qseq.episodes.schema import FieldSpec, StoreSchema
from qseq.episodes.sources import Conversion, convert, open_source, parse_source
from qseq.episodes.statistics import FieldStatistics, compute_statistics
from qseq.episodes.store import EpisodeStore
from qseq.episodes.view import EpisodeView
from qseq.episodes.window_spec import WindowSpec
from qseq.episodes.writer import StoreWriter

if TYPE_CHECKING:
    from qseq.episodes.replay import ReplayMemoryDataset
    from qseq.episodes.windows import WindowBatch, Windows

_NEEDS_TORCH = {"ReplayMemoryDataset": "replay", "WindowBatch": "windows", "Windows": "windows"}

__all__ = [
    "PAST_ACTIONS",
    "ActionSpace",
    "Conversion",
    "Episode",
    "EpisodeStore",
    "EpisodeView",
    "FieldSpec",
    "FieldStatistics",
    "PastActions",
    "RecordedEpisode",
    "ReplayMemoryDataset",
    "StoreSchema",
    "StoreWriter",
    "WindowBatch",
    "WindowSpec",
    "Windows",
    "compute_statistics",
    "convert",
    "open_source",
    "parse_source",
    "returns_to_go",
]


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
