"""The page: its design, and the few pieces of HTML every section is made of.

No scripts and no requests: styles, figures and videos are inside the file. Everything that comes from runs is escaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from string import Template

STYLE = """
:root {
  color-scheme: light dark;
  --page: #faf9f6; --card: #ffffff; --ink: #1d1f24; --muted: #686c76; --line: #e5e2db; --mark: #b3402c;
  --good: #3f8f7f; --bad: #d3cdc2;
  --series-0: #3b5b9d; --series-1: #d07a45; --series-2: #4c9a8a;
  --series-3: #95659f; --series-4: #b89a2f; --series-5: #7b8490;
}
@media (prefers-color-scheme: dark) { :root {
  --page: #131418; --card: #1b1d22; --ink: #e9e7e2; --muted: #9a9ea8; --line: #33363e; --mark: #e8816b;
  --good: #5bb5a2; --bad: #575b64;
  --series-0: #7f9fe0; --series-1: #e39a68; --series-2: #66b8a6;
  --series-3: #bb8fc6; --series-4: #d3b957; --series-5: #98a2ae;
} }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); line-height: 1.55;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 60rem; margin: 0 auto; padding: 3.5rem 1.25rem 5rem; }
h1 { font-size: 2.1rem; line-height: 1.2; letter-spacing: -.02em; margin: .2rem 0 .9rem; text-wrap: balance; }
h2 { font-size: 1.2rem; letter-spacing: -.01em; margin: 0 0 .25rem; }
h3 { font-size: .95rem; margin: 1.6rem 0 .4rem; }
p { margin: .35rem 0; max-width: 46rem; }
.eyebrow { color: var(--muted); font-size: .8rem; letter-spacing: .08em; text-transform: uppercase; }
.lead { font-size: 1.12rem; }
.note, figcaption { color: var(--muted); font-size: .88rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .9rem; margin: 1.8rem 0; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
.tile { padding: 1rem 1.1rem; border-top: 4px solid var(--tile); }
.tile b { display: block; font-size: 2.1rem; line-height: 1.15; letter-spacing: -.03em;
  font-variant-numeric: tabular-nums; }
.tile span { display: block; color: var(--muted); font-size: .85rem; }
.tile span.name { color: var(--ink); font-weight: 600; font-size: .95rem; overflow-wrap: anywhere; }
section { padding: 1.5rem 1.6rem 1.4rem; margin: 1.1rem 0; }
figure { margin: 1rem 0 .4rem; overflow-x: auto; }
svg { display: block; width: 100%; height: auto; overflow: visible; }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: 1rem; align-items: start; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .9rem; margin: .6rem 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .42rem .7rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.facts { width: auto; } .facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
.facts td:first-child { color: var(--muted); white-space: nowrap; }
thead th { color: var(--muted); font-weight: 500; }
td small { color: var(--muted); }
video, img { display: block; width: 100%; border-radius: 8px; background: var(--line); }
code { font-size: .88em; overflow-wrap: anywhere; }
footer { color: var(--muted); font-size: .82rem; margin-top: 2rem; }
@media print { body { background: none; } section, .tile { break-inside: avoid; } }
"""

PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>$style</style>
</head>
<body>
<main>
<header>
<div class="eyebrow">qseq report</div>
<h1>$title</h1>
<p class="lead">$summary</p>
</header>
$body
<footer>$footer</footer>
</main>
</body>
</html>
""")


@dataclass(frozen=True)
class Section:
    """A heading, one line that says how to read it, and HTML; without HTML the line says why there is none."""

    heading: str
    line: str
    html: str = ""


def render_page(*, title: str, summary: str, tiles: str, sections: Sequence[Section], footer: str) -> str:
    """Title, summary and footer are plain text; tiles and sections hold HTML."""
    body = "\n".join([tiles, *map(render_section, sections)])
    return PAGE.substitute(title=escape(title), style=STYLE, summary=escape(summary), body=body, footer=escape(footer))


def render_section(section: Section) -> str:
    kind = "" if section.html else ' class="note"'
    line = f"<p{kind}>{escape(section.line)}</p>"
    return f"<section>\n<h2>{escape(section.heading)}</h2>\n{line}\n{section.html}\n</section>"


def figure(svg: str, caption: str = "") -> str:
    below = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f"<figure>{svg}{below}</figure>"


def pair(*items: str) -> str:
    """Side by side where there is room."""
    return f'<div class="pair">{"".join(items)}</div>'


def heading(text: str) -> str:
    return f"<h3>{escape(text)}</h3>"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of plain text; the first column is the name of the row."""
    top = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """Names and values, plain text."""
    body = "".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts"><tbody>{body}</tbody></table>'


def tile(name: str, number: str, detail: str, colour: int) -> str:
    return (
        f'<div class="tile" style="--tile: var(--series-{colour % 6})"><span class="name">{escape(name)}</span>'
        f"<b>{escape(number)}</b><span>{escape(detail)}</span></div>"
    )


def tiles(items: Sequence[str]) -> str:
    return f'<div class="tiles">{"".join(items)}</div>' if items else ""
