"""matplotlib figures as SVG inside HTML, coloured by the page's own variables.

A figure is drawn in placeholder colours; in the SVG each becomes ``var(--...)``, so one figure suits a light and a
dark page. Text stays text: it uses the page's font, can be selected, and needs no glyph definitions.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable
from functools import wraps
from html import escape
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#040404"
GOOD, BAD, MARK = "#060601", "#060602", "#060603"
SERIES = ("#050501", "#050502", "#050503", "#050504", "#050505", "#050506")

VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--line)",
    PAPER: "var(--card)",
    GOOD: "var(--good)",
    BAD: "var(--bad)",
    MARK: "var(--mark)",
    **{colour: f"var(--series-{index})" for index, colour in enumerate(SERIES)},
}

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "axes.axisbelow": True,
    "figure.facecolor": "none",
    "savefig.facecolor": "none",
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "lines.solid_capstyle": "round",
    "legend.frameon": False,
}


def series_colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def styled(draw: Callable[P, T]) -> Callable[P, T]:
    """Runs a drawing function with the page's style; everything matplotlib made meanwhile has it."""

    @wraps(draw)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        import matplotlib as mpl

        with mpl.rc_context(STYLE):
            return draw(*args, **kwargs)

    return wrapper


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of this many inches; made without pyplot, so no global state is touched."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an ``<svg>`` element with an accessible title (plain text, escaped here)."""
    import matplotlib as mpl

    buffer = io.StringIO()
    # Clip paths and markers get ids from this salt: figures of one page differ, and a page is the same every time.
    salt = hashlib.sha256(title.encode()).hexdigest()[:12]
    style: Any = {**STYLE, "svg.hashsalt": salt}
    with mpl.rc_context(style):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return clean(buffer.getvalue(), title)


def clean(svg: str, title: str) -> str:
    """Only the element: no prologue, metadata, links to schemas, fixed size or ids nobody refers to."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"font-family: [^;\"]*;? ?", "", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, variable)
    head, rest = svg.split(">", 1)
    head = re.sub(r'\s(width|height)="[^"]*"', "", head, count=2)
    return f'{head} role="img" aria-label="{escape(title, quote=True)}">{rest.strip()}'
