"""What an evaluation found, as numbers with their uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from qseq.evaluation.intervals import bootstrap_interval, wilson_interval
from qseq.evaluation.rollout import EpisodeRecord


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """The result of `evaluate`; `to_json` is what files hold.

    Attributes:
        success_rate: share of successful episodes; None when nothing says what success is.
        success_ci95: Wilson interval of it, None likewise.
        mean_return: mean undiscounted return of an episode.
        return_ci95: bootstrap interval of it.
        episodes: how many.
        mean_length: steps.
        steps_per_second: environment steps, decisions and resets included.
        per_task: task (else instruction, else "all") -> episodes, success_rate, success_ci95, mean_return,
            return_ci95, mean_length.
        rows: one an episode: index, seed, task, success, return, length, terminated, truncated.
    """

    success_rate: float | None
    success_ci95: tuple[float, float] | None
    mean_return: float
    return_ci95: tuple[float, float]
    episodes: int
    mean_length: float
    seed: int
    env: str
    env_kwargs: dict[str, Any] = field(default_factory=dict)
    run: str | None = None
    steps: int
    seconds: float
    steps_per_second: float
    per_task: dict[str, dict[str, Any]]
    rows: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        """Plain data; the keys are the attributes."""
        result = asdict(self)
        result["success_ci95"] = None if self.success_ci95 is None else list(self.success_ci95)
        result["return_ci95"] = list(self.return_ci95)
        return result

    @classmethod
    def from_records(
        cls,
        records: Sequence[EpisodeRecord],
        *,
        env: str,
        env_kwargs: dict[str, Any],
        seed: int,
        run: str | None,
        seconds: float,
    ) -> EvaluationResult:
        """Summarise finished episodes, at least one."""
        groups: dict[str, list[EpisodeRecord]] = {}
        for record in records:
            groups.setdefault(record.task or record.instruction or "all", []).append(record)
        everything = _summary(records, seed)
        steps = sum(record.length for record in records)
        return cls(
            success_rate=everything["success_rate"],
            success_ci95=None if everything["success_ci95"] is None else tuple(everything["success_ci95"]),
            mean_return=everything["mean_return"],
            return_ci95=tuple(everything["return_ci95"]),
            episodes=len(records),
            mean_length=everything["mean_length"],
            seed=seed,
            env=env,
            env_kwargs=env_kwargs,
            run=run,
            steps=steps,
            seconds=seconds,
            steps_per_second=steps / seconds if seconds > 0 else 0.0,
            per_task={name: _summary(group, seed) for name, group in sorted(groups.items())},
            rows=[_row(record) for record in records],
        )


def success_text(records: Sequence[EpisodeRecord]) -> str:
    """ "success 40%", or the mean return where nothing says what success is; for progress."""
    known = [record.success for record in records if record.success is not None]
    if known:
        return f"success {sum(known) / len(known):.0%}"
    return f"return {np.mean([record.total_reward for record in records]):.3g}"


def _summary(records: Sequence[EpisodeRecord], seed: int) -> dict[str, Any]:
    known = [record.success for record in records if record.success is not None]
    returns = [record.total_reward for record in records]
    return {
        "episodes": len(records),
        # Unknown is not failure: an environment that says nothing about success has no success rate.
        "success_rate": sum(known) / len(known) if known else None,
        "success_ci95": list(wilson_interval(sum(known), len(known))) if known else None,
        "mean_return": float(np.mean(returns)),
        "return_ci95": list(bootstrap_interval(returns, seed)),
        "mean_length": float(np.mean([record.length for record in records])),
    }


def _row(record: EpisodeRecord) -> dict[str, Any]:
    return {
        "index": record.index,
        "seed": record.seed,
        "task": record.task,
        "instruction": record.instruction,
        "success": record.success,
        "return": record.total_reward,
        "length": record.length,
        "terminated": record.terminated,
        "truncated": record.truncated,
    }
