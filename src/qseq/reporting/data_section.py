"""What the runs learnt from: numbers, distributions of returns and lengths, camera frames."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from qseq.errors import RequestError
from qseq.reporting import figures
from qseq.reporting.media import embed_image, film_strip
from qseq.reporting.page import Section, facts, figure, heading, pair, table
from qseq.reporting.sections import count
from qseq.reporting.summary import DataSummary, summarise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from qseq.episodes.store import EpisodeStore
    from qseq.reporting.runs import Run


@dataclass(frozen=True)
class DataSource:
    """A source some run learnt from: the store, or why it cannot be opened."""

    name: str
    store: EpisodeStore | None
    problem: str = ""


def open_sources(runs: Sequence[Run]) -> list[DataSource]:
    """Every distinct source of the runs; a report must not fail because the data moved."""
    return [open_one(name) for name in dict.fromkeys(name for run in runs for name in run.data)]


def open_one(name: str) -> DataSource:
    from qseq.episodes import open_source

    try:
        return DataSource(name, open_source(name))
    except (RequestError, OSError) as error:
        return DataSource(name, None, str(error))


def success_rate_of(sources: Sequence[DataSource]) -> float | None:
    """Share of successful episodes over all sources, None unless every episode says."""
    success = [source.store.success for source in sources if source.store is not None]
    flags = np.concatenate(success) if success else np.empty(0)
    return float(flags.mean()) if len(flags) and (flags >= 0).all() else None


def data_section(sources: Sequence[DataSource]) -> Section:
    title = "What it learnt from"
    if not sources:
        return Section(title, "The runs do not say which data they learnt from.")
    html = "".join(describe(source) for source in sources if source.store is not None and source.store.num_episodes)
    problems = [f"{source.name} cannot be shown: {source.problem}." for source in sources if source.store is None]
    line = "The logged episodes every method was given." if html else ""
    return Section(title, " ".join([line, *problems]).strip() or "The data holds no episodes.", html)


def describe(source: DataSource) -> str:
    store = source.store
    assert store is not None
    summary = summarise(store)
    returns = figures.draw_histogram(
        store.returns().astype(np.float64), store.success, label="return", title=f"Returns in {source.name}"
    )
    lengths = figures.draw_histogram(
        store.lengths.astype(np.float64), store.success, label="steps", title=f"Episode lengths in {source.name}"
    )
    pictures = pair(figure(returns), figure(lengths))
    return heading(source.name) + facts(headline(summary)) + pictures + group_table(summary) + frames(store)


def headline(summary: DataSummary) -> list[tuple[str, str]]:
    rate = "unknown" if summary.success_rate is None else f"{100 * summary.success_rate:.0f}%"
    fields = ", ".join(f"{name} {tuple(spec['shape'])} {spec['dtype']}" for name, spec in summary.fields.items())
    return [
        ("holds", f"{count(summary.episodes, 'episode')}, {count(summary.steps, 'step')}"),
        ("successful", rate),
        ("fields", fields),
    ]


def group_table(summary: DataSummary) -> str:
    if len(summary.groups) < 2:
        return ""
    rows = [
        [
            group.name,
            f"{group.episodes:,}",
            "unknown" if group.success_rate is None else f"{100 * group.success_rate:.0f}%",
            f"{group.mean_return:.3g}",
        ]
        for group in summary.groups
    ]
    return table(["task", "episodes", "success", "mean return"], rows)


def frames(store: EpisodeStore) -> str:
    """A film strip of the first episode from its first camera, where there is one."""
    names = cameras(store)
    if not names:
        return ""
    strip = film_strip(store.episode(0).observations[names[0]])
    return figure(embed_image(strip, f"episode 0 seen by {names[0]}"), f"Episode 0 seen by {names[0]}.")


def cameras(store: EpisodeStore) -> list[str]:
    """The fields that hold colour pictures."""
    return [
        name
        for name, spec in store.schema.fields.items()
        if spec.dtype == "uint8" and len(spec.shape) == 3 and 3 in (spec.shape[0], spec.shape[-1])
    ]
