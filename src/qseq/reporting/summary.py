"""What a data set holds, in numbers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from qseq.episodes.store import EpisodeStore

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
class DataSummary:
    """`qseq inspect` prints this; reports show it.

    Attributes:
        fields: column name -> {"dtype", "shape"} of one row; observations, "action" and "reward".
        success_rate: over the episodes that say whether they succeeded; None if none does.
        lengths, returns: minimum, lower quartile, median, upper quartile, maximum; empty for an empty store.
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
    groups: list[GroupSummary]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def summarise(store: EpisodeStore) -> DataSummary:
    """Reads the rewards and the episode records, not the observations."""
    returns = store.returns().astype(np.float64)
    return DataSummary(
        path=str(store.path),
        episodes=store.num_episodes,
        steps=store.num_steps,
        success_rate=success_rate(store.success),
        success_known=int((store.success >= 0).sum()),
        terminated=int(store.terminated.sum()),
        truncated=int(store.truncated.sum()),
        fields={name: {"dtype": spec.dtype, "shape": list(spec.shape)} for name, spec in store.schema.columns.items()},
        action_space=store.schema.action_space,
        env=store.schema.env,
        instructions=list(store.instructions),
        lengths=quantiles(store.lengths),
        returns=quantiles(returns),
        mean_return=float(returns.mean()) if len(returns) else None,
        groups=summarise_groups(store, returns),
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


def success_rate(success: np.ndarray) -> float | None:
    """Share of ones among the episodes that say (-1 does not), None if none does."""
    known = success[success >= 0]
    return float(known.mean()) if len(known) else None


def quantiles(values: np.ndarray) -> list[float]:
    return [float(value) for value in np.quantile(values, QUANTILES)] if len(values) else []
