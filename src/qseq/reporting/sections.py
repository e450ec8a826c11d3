"""Each section of a report, from runs to HTML. A section without its ingredients says what is missing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qseq.reporting import figures
from qseq.reporting.intervals import Interval
from qseq.reporting.media import embed_video, pick_video
from qseq.reporting.page import Section, figure, heading, pair, table, tile
from qseq.reporting.results import MethodResult
from qseq.reporting.runs import Run

CURVES_WANTED = 6
MOST_POINTS = 300  # a curve on paper is a few hundred pixels wide; more points only make the file larger
NOT_CURVES = {"step", "time", "seconds", "epoch", "wall_time", "elapsed", "lr", "learning_rate"}


def score_text(score: Interval, is_success: bool) -> str:
    if is_success:
        return f"{100 * score.value:.0f}% ({100 * score.low:.0f} to {100 * score.high:.0f})"
    return f"{score.value:.3g} ({score.low:.3g} to {score.high:.3g})"


def result_tile(result: MethodResult, colour: int) -> str:
    number = f"{100 * result.score.value:.0f}%" if result.is_success else f"{result.score.value:.3g}"
    what = "success" if result.is_success else "mean return"
    low, high = (
        (f"{100 * result.score.low:.0f}", f"{100 * result.score.high:.0f}%")
        if result.is_success
        else (f"{result.score.low:.3g}", f"{result.score.high:.3g}")
    )
    return tile(result.name, number, f"{what}, {low} to {high}, {count(result.episodes, 'episode')}", colour)


def success_section(results: Sequence[MethodResult], colours: Mapping[str, int], data_rate: float | None) -> Section:
    title = "Success" if all(result.is_success for result in results) else "Results"
    if not results:
        return Section(title, "No run has been evaluated: 'qseq evaluate RUN' writes what this section shows.")
    line = (
        "Bars: what each method reaches on initial states it was not trained on. "
        "Thin lines: 95% intervals over the pooled episodes."
    )
    html = figure(figures.draw_scores(results, colours, data_rate))
    head = ["method", "success" if title == "Success" else "score", "mean return", "episodes", "runs"]
    rows = [
        [
            result.name,
            score_text(result.score, result.is_success),
            score_text(result.mean_return, False),
            f"{result.episodes:,}",
            str(result.runs),
        ]
        for result in results
    ]
    return Section(title, line, html + table(head, rows) + task_table(results))


def task_table(results: Sequence[MethodResult]) -> str:
    tasks = sorted({task for result in results for task in result.tasks})
    if len(tasks) < 2:
        return ""
    rows = [
        [task]
        + [
            score_text(result.tasks[task], result.is_success) if task in result.tasks else "not evaluated"
            for result in results
        ]
        for task in tasks
    ]
    return heading("By task") + table(["task", *(result.name for result in results)], rows)


def curves_section(runs: Sequence[Run], colours: Mapping[str, int]) -> Section:
    panels: dict[str, dict[str, list[figures.Curve]]] = {}
    for run in runs:
        for metric in metric_names(run.metrics):
            curve = read_curve(run.metrics, metric)
            if len(curve[0]) > 1:
                panels.setdefault(metric, {}).setdefault(run.method, []).append(curve)
    if not panels:
        return Section("Learning curves", "No run has two lines in its metrics.jsonl yet.")
    order = ["loss", "temporal_difference", "conservative", "value_taken", "target", "accuracy"]
    rank = {metric: place for place, metric in enumerate(order)}
    chosen = sorted(panels, key=lambda metric: rank.get(metric, len(rank)))[:CURVES_WANTED]
    line = "What training logged, one line a run. Losses of different methods measure different things."
    return Section("Learning curves", line, figure(figures.draw_curves({m: panels[m] for m in chosen}, colours)))


def metric_names(metrics: Sequence[Mapping[str, Any]]) -> list[str]:
    names = {name: None for record in metrics for name, value in record.items() if is_number(value)}
    return [name for name in names if name not in NOT_CURVES and not name.endswith(("_per_second", "seconds"))]


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def read_curve(metrics: Sequence[Mapping[str, Any]], metric: str) -> figures.Curve:
    """(steps, values), averaged over neighbours down to a few hundred points."""
    chosen = [record for record in metrics if "step" in record and is_number(record.get(metric))]
    points = [(record["step"], record[metric]) for record in chosen]
    array = np.array([point for point in points if np.isfinite(point[1])], dtype=np.float64).reshape(-1, 2)
    groups = np.array_split(array, min(len(array), MOST_POINTS)) if len(array) else []
    smooth = np.array([group.mean(axis=0) for group in groups]).reshape(-1, 2)
    return smooth[:, 0], smooth[:, 1]


def video_section(runs: Sequence[Run]) -> Section:
    shown: dict[str, str] = {}
    for run in runs:
        video = pick_video(run.videos)
        if video is not None and run.method not in shown:
            shown[run.method] = figure(embed_video(video), f"{run.method}: {describe_video(run, video)}")
    if not shown:
        return Section("Videos", "No run has a video: 'qseq evaluate RUN --video RUN/evaluations/video' writes some.")
    return Section("Videos", "Each method acting in an evaluation.", pair(*shown.values()))


def describe_video(run: Run, video: Path) -> str:
    """The file's name, and how the episode ended where the result of the run's only evaluation says."""
    name = video.stem.replace("_", " ")
    match = re.fullmatch(r"episode_(\d+)", video.stem)
    if match is None or len(run.evaluations) != 1:
        return name
    rows = run.evaluations[0].get("rows") or []
    success = next((row.get("success") for row in rows if row.get("index") == int(match[1])), None)
    return name if success is None else f"{name}, {'success' if success else 'failure'}"


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
