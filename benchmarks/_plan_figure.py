"""Draw docs/images/plans.svg: how a planner of benchmarks/planner.py plans in its maze.

python benchmarks/_plan_figure.py RUN STORE
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from _cells import ROOT
from qseq.episodes import EpisodeStore
from qseq.reporting.page import STYLE
from qseq.reporting.plans import describe, draw, drive


def standalone(svg: str) -> str:
    """A figure of a report as a file of its own: with the page's light colours, on white."""
    colours = dict(re.findall(r"(--[\w-]+): (#\w+)", STYLE.partition("prefers-color-scheme")[0]))
    svg = re.sub(r"var\((--[\w-]+)\)", lambda found: colours[found[1]], svg)
    svg = re.sub(r"\d+\.\d{2,}", lambda found: f"{float(found[0]):.1f}", svg)
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" style="background: white" ', 1)


def main() -> None:
    path, store = (Path(argument) for argument in sys.argv[1:])
    run: Any = SimpleNamespace(path=path, data=["data"])
    source: Any = SimpleNamespace(name="data", store=EpisodeStore.open(store))
    driven = drive(run, [source])
    if driven is None:
        raise SystemExit(f"{path} is no planner of a maze")
    out = ROOT / "docs" / "images" / "plans.svg"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(standalone(draw(driven, "PointMaze")) + "\n")
    print(describe(driven))


if __name__ == "__main__":
    main()
