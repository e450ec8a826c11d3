"""Say what a data set holds and whether it is sound.

Everything is read once: checksums, finite values, action bounds. Bad data ends with status 2 and one line that names
file, episode, step, field and value.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from qseq.cli._common import percent, require_file_name

if TYPE_CHECKING:
    from qseq.reporting.summary import DataSummary

HELP = "say what a data set holds and check it"
BAR = 30
MOST_GROUPS = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", metavar="DATA", help="store:DIR (or a bare path), minari:ID, lerobot:FOLDER_OR_REPO or robomimic:FILE"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--html", type=Path, metavar="FILE", help="also write a page with figures and sample frames")


def run(args: argparse.Namespace) -> None:
    from qseq.episodes import open_source
    from qseq.reporting.summary import summarise

    if args.html is not None:
        require_file_name(args.html, "--html")
    store = open_source(args.data)
    store.verify()
    summary = summarise(store)
    if args.html is not None:
        from qseq.reporting.inspection import write_inspection

        write_inspection(store, summary, args.html, name=args.data)
    if args.json:
        print(json.dumps({**summary.to_json(), "valid": True}, indent=2))
    else:
        print_tables(summary)


def print_tables(summary: DataSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    from qseq.reporting.summary import range_texts

    console = Console()
    head = Table(title=f"data set {summary.path}", show_header=False, title_justify="left")
    for name, value in headline(summary).items():
        head.add_row(name, value)
    console.print(head)

    fields = Table("field", "shape of one row", "dtype", title="fields", title_justify="left")
    for column in ("least", "mean", "largest"):
        fields.add_column(column, justify="right")
    for name, spec in summary.fields.items():
        kept = f"{spec['dtype']} as {spec['coding']}" if "coding" in spec else spec["dtype"]
        fields.add_row(name, str(tuple(spec["shape"])), kept, *range_texts(summary.ranges.get(name)))
    console.print(fields)

    counts, edges = summary.return_histogram.counts, summary.return_histogram.edges
    returns = Table("return", "episodes", "", title="returns", title_justify="left")
    for low, high, number in zip(edges, edges[1:], counts, strict=False):
        bar = "█" * round(BAR * number / max(counts)) if number else ""
        returns.add_row(f"{low:.3g} to {high:.3g}", f"{number:,}", bar)
    console.print(returns)

    groups = Table("task", title="by task or instruction", title_justify="left")
    for column in ("episodes", "steps", "success", "mean return"):
        groups.add_column(column, justify="right")
    for group in summary.groups:
        rate = percent(group.success_rate)
        groups.add_row(group.name, f"{group.episodes:,}", f"{group.steps:,}", rate, f"{group.mean_return:.3f}")
    console.print(groups)


def headline(summary: DataSummary) -> dict[str, str]:
    unlabelled = summary.episodes - summary.success_known
    ends = f"{summary.terminated:,} terminated, {summary.truncated:,} truncated"
    if summary.episodes > summary.terminated + summary.truncated:
        ends += f", {summary.episodes - summary.terminated - summary.truncated:,} where the recording stopped"
    return {
        "episodes": f"{summary.episodes:,}",
        "steps": f"{summary.steps:,}",
        "success": percent(summary.success_rate) + (f" ({unlabelled:,} episodes do not say)" if unlabelled else ""),
        "length": spread(summary.lengths, "{:.0f}"),
        "return": spread(summary.returns, "{:.3g}"),
        "ends": ends,
        "action space": describe_space(summary.action_space),
        "dropped frames": describe_dropped(summary),
        "duplicates": describe_duplicates(summary),
        "environment": json.dumps(summary.env) if summary.env else "not recorded",
        "check": "sound: checksums, finite values and action bounds hold in every step",
    }


def spread(quantiles: list[float], form: str) -> str:
    if not quantiles:
        return "no episodes"
    low, lower, median, upper, high = (form.format(value) for value in quantiles)
    return f"median {median}, middle half {lower} to {upper}, all {low} to {high}"


def describe_dropped(summary: DataSummary) -> str:
    if summary.dropped_frames is None:
        return "not known: the data hold no time stamps"
    if summary.dropped_frames == 0:
        return "none"
    return f"{summary.dropped_frames:,} in {summary.episodes_with_dropped_frames:,} episodes"


def describe_duplicates(summary: DataSummary) -> str:
    if not summary.duplicates:
        return "none"
    groups = [" = ".join(map(str, group)) for group in summary.duplicates[:MOST_GROUPS]]
    more = f", and {len(summary.duplicates) - MOST_GROUPS:,} more" if len(summary.duplicates) > MOST_GROUPS else ""
    surplus = sum(len(group) - 1 for group in summary.duplicates)
    return f"{surplus:,} episodes are copies of others: {', '.join(groups)}{more}"


def describe_space(space: dict[str, object]) -> str:
    text = json.dumps(space)
    return text if len(text) <= 160 else f"{text[:157]}..."
