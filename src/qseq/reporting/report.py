"""``write_report``: run folders in, one HTML file out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qseq import __version__
from qseq.errors import RequestError
from qseq.files import write_atomic
from qseq.reporting.action_values import action_value_section
from qseq.reporting.data_section import DataSource, data_section, open_sources, success_rate_of
from qseq.reporting.intervals import difference_interval
from qseq.reporting.page import render_page, tiles
from qseq.reporting.plans import plan_sections
from qseq.reporting.results import MethodResult, pool_results
from qseq.reporting.runs import Run, read_run
from qseq.reporting.sections import count, curves_section, result_tile, success_section, video_section

MOST_TILES = 6


def write_report(runs: Sequence[Path], out: Path, *, title: str | None = None) -> None:
    """Write one self-contained page about `runs`; runs of one method with different seeds are pooled.

    Raises:
        RequestError: one of the folders is not a run, or the disk is full.
        DataError: a file of a run is damaged.
    """
    if not runs:
        raise RequestError("no run folder given; name at least one")
    page = render_report([read_run(path) for path in dict.fromkeys(runs)], title=title)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, page)


def render_report(runs: Sequence[Run], *, title: str | None = None) -> str:
    """The page as a string."""
    results = pool_results(runs)
    colours = method_colours(runs, results)
    sources = open_sources(runs)
    data_rate = success_rate_of(sources)
    return render_page(
        title=title or make_title(runs, results),
        summary=summarise_results(results, sources, data_rate),
        tiles=tiles([result_tile(result, colours[result.method]) for result in results[:MOST_TILES]]),
        sections=[
            success_section(results, colours, data_rate),
            video_section(runs),
            action_value_section(runs, sources),
            *plan_sections(runs, sources),
            curves_section(runs, colours),
            data_section(sources),
        ],
        footer=f"Made by qseq {__version__} from {', '.join(str(run.path) for run in runs)}.",
    )


def method_colours(runs: Sequence[Run], results: Sequence[MethodResult]) -> dict[str, int]:
    """A colour a method, the same in every figure; the best method has the first."""
    names = dict.fromkeys([*(result.method for result in results), *(run.method for run in runs)])
    return {name: index for index, name in enumerate(names)}


def make_title(runs: Sequence[Run], results: Sequence[MethodResult]) -> str:
    methods = list(method_colours(runs, results))
    names = f"{', '.join(methods[:-1])} and {methods[-1]}" if len(methods) > 1 else methods[0]
    places = {place(evaluation) for run in runs for evaluation in run.evaluations}
    return f"{names} on {places.pop()}" if len(places) == 1 else names


def place(evaluation: dict[str, Any]) -> str:
    """The task if the environment has one, else the environment, without the module that registers it."""
    task = (evaluation.get("env_kwargs") or {}).get("task")
    return task if isinstance(task, str) else str(evaluation["env"]).rpartition(":")[2]


def summarise_results(results: Sequence[MethodResult], sources: Sequence[DataSource], data_rate: float | None) -> str:
    """The main result in a few sentences."""
    sentences = [describe_data(sources, data_rate)]
    if not results:
        return " ".join([*sentences, "No run has been evaluated yet."]).strip()
    best, *others = results
    if not best.is_success:
        sentences.append(f"{best.name} reaches the highest mean return, {best.score.value:.3g}.")
        return " ".join(sentences).strip()
    sentences.append(
        f"{best.name} succeeds in {100 * best.score.value:.0f}% of {count(best.episodes, 'episode')} from new initial "
        f"states (95% interval {100 * best.score.low:.0f} to {100 * best.score.high:.0f}%)."
    )
    rivals = [result for result in others if result.is_success]
    if rivals:
        sentences.append(compare(best, rivals[0]))
    return " ".join(sentences).strip()


def describe_data(sources: Sequence[DataSource], data_rate: float | None) -> str:
    episodes = sum(source.store.num_episodes for source in sources if source.store is not None)
    if not episodes:
        return ""
    quality = "" if data_rate is None else f", {100 * data_rate:.0f}% of them successful"
    return f"Learnt from {count(episodes, 'logged episode')}{quality}."


def compare(best: MethodResult, rival: MethodResult) -> str:
    difference = difference_interval(best.score, rival.score)
    points = f"{100 * difference.value:.0f}"
    interval = f"(95% interval of the difference {100 * difference.low:.0f} to {100 * difference.high:.0f})"
    if difference.low <= 0:
        return f"{rival.name} is {points} points behind {interval}: too close to tell apart with this many episodes."
    return f"That is {points} points more than {rival.name} {interval}."
