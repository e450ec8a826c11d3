"""Evaluations of several runs, pooled by method."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from qseq.reporting.intervals import Interval, pooled_mean, success_interval
from qseq.reporting.runs import Run


@dataclass(frozen=True, kw_only=True)
class MethodResult:
    """One method in one setting, over all its runs.

    Attributes:
        name: the method, with the setting where a report has several.
        score: success rate, or mean return where success is not known.
        is_success: which of the two it is.
        tasks: the score of each task, where evaluations tell tasks apart.
    """

    name: str
    method: str
    score: Interval
    is_success: bool
    episodes: int
    runs: int
    mean_return: Interval
    tasks: dict[str, Interval]


def pool_results(runs: Sequence[Run]) -> list[MethodResult]:
    """Best first. A method's episodes are pooled over its runs and evaluation seeds."""
    groups: dict[tuple[str, str], list[tuple[Run, dict[str, Any]]]] = {}
    for run in runs:
        for evaluation in run.evaluations:
            groups.setdefault((run.method, setting(evaluation)), []).append((run, evaluation))
    settings = {key[1] for key in groups}
    results = [
        pool(method, f"{method} · {where}" if len(settings) > 1 else method, group)
        for (method, where), group in groups.items()
    ]
    return sorted(results, key=lambda result: (result.is_success, result.score.value), reverse=True)


def setting(evaluation: dict[str, Any]) -> str:
    """Environment, its arguments, the policy's options and what was kept from it, short enough for a label."""
    parts = [str(evaluation["env"])]
    for name in ("env_kwargs", "policy_options"):
        options = evaluation.get(name) or {}
        parts += [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in sorted(options.items())]
    if evaluation.get("shuffle_instructions"):
        parts.append("instructions shuffled")
    parts += [f"{name} blank" for name in evaluation.get("blank") or ()]
    return " ".join(parts)


def pool(method: str, name: str, group: list[tuple[Run, dict[str, Any]]]) -> MethodResult:
    evaluations = [evaluation for _, evaluation in group]
    is_success = all(evaluation.get("success_rate") is not None for evaluation in evaluations)
    returns = pool_returns(evaluations)
    tasks = {
        task: pool_success(parts) if is_success else pool_returns(parts)
        for task in sorted({task for evaluation in evaluations for task in evaluation.get("per_task") or {}})
        for parts in [[e["per_task"][task] for e in evaluations if task in (e.get("per_task") or {})]]
    }
    return MethodResult(
        name=name,
        method=method,
        score=pool_success(evaluations) if is_success else returns,
        is_success=is_success,
        episodes=sum(evaluation["episodes"] for evaluation in evaluations),
        runs=len({run.path for run, _ in group}),
        mean_return=returns,
        tasks=tasks,
    )


def pool_success(parts: list[dict[str, Any]]) -> Interval:
    successes = sum(round((part.get("success_rate") or 0.0) * part["episodes"]) for part in parts)
    return success_interval(successes, sum(part["episodes"] for part in parts))


def pool_returns(parts: list[dict[str, Any]]) -> Interval:
    """The mean of the recorded means; a part without an interval of its own adds none."""
    return pooled_mean(
        [
            (Interval(part["mean_return"], *(part.get("return_ci95") or [part["mean_return"]] * 2)), part["episodes"])
            for part in parts
        ]
    )
