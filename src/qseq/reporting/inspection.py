"""A page about one data set: what `qseq inspect` prints, with figures and sample frames."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qseq import __version__
from qseq.files import write_atomic
from qseq.reporting.data_section import DataSource, cameras, data_section
from qseq.reporting.media import embed_image, film_strip
from qseq.reporting.page import Section, facts, figure, render_page, table
from qseq.reporting.sections import count
from qseq.reporting.summary import DataSummary, range_texts

if TYPE_CHECKING:
    from qseq.episodes.store import EpisodeStore

EPISODES_SHOWN = 6
MOST_DIMENSIONS = 64


def write_inspection(store: EpisodeStore, summary: DataSummary, path: Path, *, name: str) -> None:
    """Write the page; parent folders are created.

    Raises:
        OSError: the file cannot be written.
    """
    sections = [data_section([DataSource(name, store)]), frames_section(store), ranges_section(store, summary)]
    sections.append(checks_section(summary))
    text = f"{count(summary.episodes, 'episode')} of {count(summary.steps, 'step')}"
    rate = "" if summary.success_rate is None else f", {100 * summary.success_rate:.0f}% successful"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(
        path,
        render_page(
            title=f"Data set {Path(name.rpartition(':')[2]).name}",
            summary=f"{text}{rate}.",
            tiles="",
            sections=sections,
            footer=f"Made by qseq {__version__} from {name}.",
        ),
    )


def frames_section(store: EpisodeStore) -> Section:
    """Film strips of episodes spread over the data set, successes and failures in turn."""
    title = "Sample frames"
    names = cameras(store)
    if not names or not store.num_episodes:
        return Section(title, "The data hold no pictures.")
    html = ""
    for index in sample_episodes(store.success):
        for name in names:
            frames = np.asarray(store.columns[name][store.rows(name, index)])
            outcome = {1: "success", 0: "failure"}.get(int(store.success[index]), "success unknown")
            said = store.instructions[store.instruction_ids[index]]
            caption = f"Episode {index}, {name}, {outcome}" + (f": {said}" if said else "")
            html += figure(embed_image(film_strip(frames), caption), caption)
    return Section(title, "Six moments of each episode, from its first observation to its last.", html)


def sample_episodes(success: np.ndarray) -> list[int]:
    """At most `EPISODES_SHOWN` indices, of each outcome as evenly spread as there are outcomes."""
    groups = [np.flatnonzero(success == outcome) for outcome in (1, 0, -1)]
    groups = [group for group in groups if len(group)]
    each = max(1, EPISODES_SHOWN // max(1, len(groups)))
    chosen = [group[np.unique(np.linspace(0, len(group) - 1, each).astype(int))] for group in groups]
    return [int(index) for index in np.concatenate(chosen)] if chosen else []


def ranges_section(store: EpisodeStore, summary: DataSummary) -> Section:
    rows = []
    for name, found in summary.ranges.items():
        names = store.schema.dimension_names.get(name, [])
        rows.append([name, *range_texts(found)])
        if 1 < len(found.min) <= MOST_DIMENSIONS:
            for i, (low, mean, high) in enumerate(zip(found.min, found.mean, found.max, strict=True)):
                label = names[i] if i < len(names) else str(i)
                rows.append([f"  {name} [{label}]", f"{low:.4g}", f"{mean:.4g}", f"{high:.4g}"])
    html = table(["field", "least", "mean", "largest"], rows) if rows else ""
    return Section("Ranges", "Every number; pictures (~) in part.", html)


def checks_section(summary: DataSummary) -> Section:
    dropped = "not known: no time stamps" if summary.dropped_frames is None else f"{summary.dropped_frames:,}"
    copies = sum(len(group) - 1 for group in summary.duplicates)
    rows = [
        ("checksums, finite values, action bounds", "sound in every step"),
        ("dropped frames", dropped),
        ("episodes that are copies of others", f"{copies:,}"),
    ]
    return Section("Checks", "What was looked for in every episode.", facts(rows))
