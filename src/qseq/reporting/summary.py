"""What a data set holds, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qseq.episodes.audit import FieldRange, dropped_frames, duplicate_episodes, field_ranges

if TYPE_CHECKING:
    from qseq.episodes.store import EpisodeStore

HISTOGRAM_BINS = 10
QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, kw_only=True)
class GroupSummary:
    """Episodes that share a task (or, where no task is recorded, an instruction)."""

    name: str
    episodes: int
    steps: int
    success_rate: float | None
    mean_return: float


@dataclass(frozen=True, kw_only=True)
class Histogram:
    """Episodes between each edge and the next."""

    edges: list[float]
    counts: list[int]


@dataclass(frozen=True, kw_only=True)
class DataSummary:
    """`qseq inspect` prints this; reports show it.

    Attributes:
        fields: column name -> {"dtype", "shape"} of one row; observations, "action" and "reward". Of compressed
            pictures also "coding".
        success_rate: over the episodes that say whether they succeeded; None if none does.
        lengths, returns: minimum, lower quartile, median, upper quartile, maximum; empty for an empty store.
        ranges: column name -> least, largest and mean value.
        dropped_frames: in all; None where neither time stamps nor the source tell.
        duplicates: groups of episodes that are the same.
    """

    path: str
    episodes: int
    steps: int
    success_rate: float | None
    success_known: int
    terminated: int
    truncated: int
    fields: dict[str, dict[str, Any]]
    action_space: dict[str, Any]
    env: dict[str, Any] | None
    instructions: list[str]
    lengths: list[float]
    returns: list[float]
    mean_return: float | None
    return_histogram: Histogram
    groups: list[GroupSummary]
    ranges: dict[str, FieldRange]
    dropped_frames: int | None
    episodes_with_dropped_frames: int
    duplicates: list[list[int]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(store: EpisodeStore) -> DataSummary:
    """Reads every number of the store once, and some of its pictures."""
    returns = store.returns().astype(np.float64)
    dropped = dropped_frames(store)
    return DataSummary(
        path=str(store.path),
        episodes=store.num_episodes,
        steps=store.num_steps,
        success_rate=success_rate(store.success),
        success_known=int((store.success >= 0).sum()),
        terminated=int(store.terminated.sum()),
        truncated=int(store.truncated.sum()),
        fields={
            name: {"dtype": spec.dtype, "shape": list(spec.shape)}
            | ({"coding": store.schema.codings[name]} if name in store.schema.codings else {})
            for name, spec in store.schema.columns.items()
        },
        action_space=store.schema.action_space,
        env=store.schema.env,
        instructions=list(store.instructions),
        lengths=quantiles(store.lengths),
        returns=quantiles(returns),
        mean_return=float(returns.mean()) if len(returns) else None,
        return_histogram=histogram(returns),
        groups=summarise_groups(store, returns),
        ranges=field_ranges(store),
        dropped_frames=None if dropped is None else int(dropped.sum()),
        episodes_with_dropped_frames=0 if dropped is None else int((dropped > 0).sum()),
        duplicates=duplicate_episodes(store),
    )


def summarise_groups(store: EpisodeStore, returns: np.ndarray) -> list[GroupSummary]:
    names = np.array(
        [
            str(metadata.get("task") or store.instructions[instruction] or "(unnamed)")
            for metadata, instruction in zip(store.metadata, store.instruction_ids, strict=True)
        ],
        dtype=object,
    )
    return [
        GroupSummary(
            name=name,
            episodes=int(chosen.sum()),
            steps=int(store.lengths[chosen].sum()),
            success_rate=success_rate(store.success[chosen]),
            mean_return=float(returns[chosen].mean()),
        )
        for name in sorted(set(names))
        for chosen in [names == name]
    ]


def histogram(values: np.ndarray) -> Histogram:
    """At most `HISTOGRAM_BINS` bins of equal width; one where all values are the same, none without values."""
    if not len(values):
        return Histogram(edges=[], counts=[])
    if values.max() == values.min():
        return Histogram(edges=[float(values[0])] * 2, counts=[len(values)])
    counts, edges = np.histogram(values, bins=HISTOGRAM_BINS)
    return Histogram(edges=edges.tolist(), counts=counts.tolist())


def success_rate(success: np.ndarray) -> float | None:
    """Share of ones among the episodes that say (-1 does not), None if none does."""
    known = success[success >= 0]
    return float(known.mean()) if len(known) else None


def quantiles(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(values, QUANTILES)] if len(values) else []


def range_texts(found: FieldRange | None) -> tuple[str, str, str]:
    """Least, mean and largest value of a column, over all of its dimensions."""
    if found is None:
        return "", "", ""
    mark = "~" if found.sampled else ""  # pictures are looked at in part
    return (
        f"{mark}{min(found.min):.4g}",
        f"{mark}{float(np.mean(found.mean)):.4g}",
        f"{mark}{max(found.max):.4g}",
    )
