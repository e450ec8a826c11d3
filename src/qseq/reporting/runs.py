"""Run folders as reports see them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qseq.errors import DataError, RequestError


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one run folder holds.

    Attributes:
        method: algorithm and label; runs that share it differ by their seeds only.
        data: the sources it learnt from, as they were given to training.
        metrics: the lines of metrics.jsonl.
        evaluations: the files under evaluations/, oldest name first.
        videos: mp4 files under evaluations/.
    """

    path: Path
    method: str
    seed: int | None
    data: tuple[str, ...]
    metrics: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    videos: list[Path]


def read_run(path: Path) -> Run:
    """Read a run folder.

    Raises:
        RequestError: it is not a run folder.
        DataError: one of its files is damaged.
    """
    if not (path / "config.yaml").is_file():
        found = "no such folder" if not path.exists() else "no config.yaml in it"
        raise RequestError(f"{path} is not a run folder: {found}; expected a folder written by 'qseq train'")
    identity = read_json(path / "run.json") if (path / "run.json").is_file() else {}
    evaluations = path / "evaluations"
    return Run(
        path=path,
        method=method_name(path, identity),
        seed=identity.get("seed"),
        data=tuple(identity.get("data", ())),
        metrics=read_metrics(path / "metrics.jsonl"),
        evaluations=read_evaluations(evaluations),
        videos=sorted(evaluations.rglob("*.mp4")),
    )


def method_name(path: Path, identity: dict[str, Any]) -> str:
    """The algorithm, with the label if the run has one; the folder's name where neither is recorded."""
    return " ".join(filter(None, [identity.get("algorithm") or path.name, identity.get("label")]))


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise DataError(f"{path} is damaged: it is not valid JSON ({error}); delete it or write it again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path} is damaged: found a {type(value).__name__}, expected a JSON object")
    return value


def read_evaluations(folder: Path) -> list[dict[str, Any]]:
    """Every result, once: `qseq evaluate --json` may have put a second copy beside the first."""
    results: list[dict[str, Any]] = []
    for path in sorted(folder.glob("*.json")):
        result = read_evaluation(path)
        if result not in results:
            results.append(result)
    return results


def read_evaluation(path: Path) -> dict[str, Any]:
    result = read_json(path)
    missing = [key for key in ("episodes", "mean_return", "env") if key not in result]
    if missing:
        raise DataError(f"{path}: found no '{missing[0]}', expected a file written by 'qseq evaluate'")
    return result


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut short by a crash is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            if number == len(lines):
                break
            raise DataError(f"{path} line {number} is damaged: not valid JSON; delete the line") from error
        if isinstance(record, dict):
            records.append(record)
    return records
