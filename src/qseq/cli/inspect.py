"""Say what a data set holds and whether it is sound.

Everything is read once: checksums, finite values, action bounds. Bad data ends with status 2 and one line that names
file, episode, step, field and value.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from qseq.cli._common import percent

if TYPE_CHECKING:
    from qseq.reporting.summary import DataSummary

HELP = "say what a data set holds and check it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="store:DIR (or a bare path) or minari:ID")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")


def run(args: argparse.Namespace) -> None:
    from qseq.episodes import open_source
    from qseq.reporting.summary import summarise

    store = open_source(args.data)
    store.verify()
    summary = summarise(store)
    if args.json:
        print(json.dumps({**summary.to_json(), "valid": True}, indent=2))
    else:
        print_tables(summary)


def print_tables(summary: DataSummary) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    head = Table(title=f"data set {summary.path}", show_header=False, title_justify="left")
    for name, value in headline(summary).items():
        head.add_row(name, value)
    console.print(head)

    fields = Table("field", "shape of one row", "dtype", title="fields", title_justify="left")
    for name, spec in summary.fields.items():
        fields.add_row(name, str(tuple(spec["shape"])), spec["dtype"])
    console.print(fields)

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
        "environment": json.dumps(summary.env) if summary.env else "not recorded",
        "check": "sound: checksums, finite values and action bounds hold in every step",
    }


def spread(quantiles: list[float], form: str) -> str:
    if not quantiles:
        return "no episodes"
    low, lower, median, upper, high = (form.format(value) for value in quantiles)
    return f"median {median}, middle half {lower} to {upper}, all {low} to {high}"


def describe_space(space: dict[str, object]) -> str:
    text = json.dumps(space)
    return text if len(text) <= 160 else f"{text[:157]}..."
