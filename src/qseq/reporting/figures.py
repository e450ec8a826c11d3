"""The figures of a report, each from plain numbers to an ``<svg>`` string."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from qseq.reporting.svg import BAD, GOOD, GRID, INK, MARK, MUTED, PAPER, new_figure, series_colour, styled, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qseq.reporting.results import MethodResult

WIDTH = 8.6
Curve = tuple[np.ndarray, np.ndarray]


@styled
def draw_scores(results: Sequence[MethodResult], colours: Mapping[str, int], data_rate: float | None) -> str:
    """Horizontal bars with 95% intervals, best on top; a dashed line shows what the data itself reaches."""
    is_success = all(result.is_success for result in results)
    scale = 100 if is_success else 1
    figure = new_figure(WIDTH, 0.95 + 0.55 * len(results))
    axes = figure.subplots()
    for row, result in enumerate(results):
        score = result.score
        axes.barh(row, scale * score.value, height=0.56, color=series_colour(colours[result.method]))
        axes.plot([scale * score.low, scale * score.high], [row, row], color=INK, linewidth=1.6)
        label = f"{scale * score.value:.0f}%" if is_success else f"{score.value:.3g}"
        axes.annotate(
            label,
            (scale * max(score.high, score.value), row),
            (8, 0),
            textcoords="offset points",
            va="center",
            weight="bold",
        )
    axes.set_yticks(range(len(results)), [result.name for result in results])
    axes.tick_params(axis="y", labelcolor=INK, labelsize=11)
    axes.invert_yaxis()
    axes.spines["left"].set_visible(False)
    axes.grid(axis="x")
    if is_success:
        axes.set_xlim(0, 108)
        axes.set_xticks(range(0, 101, 20), [f"{tick}%" for tick in range(0, 101, 20)])
    if is_success and data_rate is not None:
        axes.axvline(100 * data_rate, color=MARK, linestyle=(0, (4, 3)), linewidth=1.4)
        axes.annotate(
            f"success in the data: {100 * data_rate:.0f}%",
            (100 * data_rate, 1),
            (0, 3),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=MARK,
            ha="left" if data_rate < 0.5 else "right",
            fontsize=9,
        )
    return to_svg(figure, "Success of each method with 95% intervals" if is_success else "Mean return of each method")


@styled
def draw_curves(panels: Mapping[str, Mapping[str, Sequence[Curve]]], colours: Mapping[str, int]) -> str:
    """One panel a metric: {metric: {method: [(steps, values) of each run]}}."""
    columns = min(3, len(panels))
    rows = ceil(len(panels) / columns)
    figure = new_figure(WIDTH, 2.15 * rows + 0.3)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in list(grid.flat)[len(panels) :]:
        axes.set_visible(False)
    for axes, (metric, methods) in zip(grid.flat, panels.items(), strict=False):
        axes.set_title(metric.replace("_", " "), color=INK)
        axes.grid(axis="y")
        axes.locator_params(axis="x", nbins=4)
        if spans_decades(methods):
            axes.set_yscale("log")
        else:
            axes.locator_params(axis="y", nbins=5)
        for method, curves in methods.items():
            for steps, values in curves:
                axes.plot(steps, values, color=series_colour(colours[method]), linewidth=1.5, label=method)
    for axes in grid[-1]:
        axes.set_xlabel("training step")
    add_legend(list(grid.flat), figure_legend=len({m for panel in panels.values() for m in panel}) > 1)
    return to_svg(figure, "Learning curves")


def spans_decades(methods: Mapping[str, Sequence[Curve]]) -> bool:
    """Whether a linear axis would flatten the smaller curves."""
    values = np.concatenate([values for curves in methods.values() for _, values in curves])
    return bool(values.min() > 0 and values.max() > 30 * values.min())


def add_legend(axes: Sequence[Axes], *, figure_legend: bool) -> None:
    """One legend for all panels, each method once."""
    if not figure_legend:
        return
    handles = {
        label: handle for panel in axes for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)
    }
    axes[0].figure.legend(
        handles.values(), handles.keys(), loc="outside upper left", ncols=len(handles), labelcolor=INK, handlelength=1.2
    )


@styled
def draw_histogram(values: np.ndarray, success: np.ndarray, *, label: str, title: str) -> str:
    """Counts of episodes, stacked by whether they succeeded (int8: 1, 0, -1 unknown)."""
    figure = new_figure(WIDTH / 2 - 0.1, 2.5)
    axes = figure.subplots()
    groups = {"success": (success == 1, GOOD), "failure": (success == 0, BAD), "unknown": (success < 0, MUTED)}
    present = {name: group for name, group in groups.items() if group[0].any()}
    span = float(values.max() - values.min())
    edges = np.histogram_bin_edges(values, bins=24 if span > 0 else 1)
    axes.hist(
        [values[mask] for mask, _ in present.values()],
        bins=list(edges),
        stacked=True,
        color=[colour for _, colour in present.values()],
        label=list(present),
        edgecolor=PAPER,
        linewidth=0.8,
    )
    axes.set_xlabel(label)
    axes.set_ylabel("episodes")
    axes.grid(axis="y")
    axes.locator_params(axis="y", nbins=4, integer=True)
    axes.figure.legend(loc="outside upper left", ncols=3, labelcolor=INK, handlelength=0.9, handleheight=0.9)
    return to_svg(figure, title)


@styled
def draw_action_values(values: np.ndarray, tokens: np.ndarray, names: Sequence[str], title: str) -> str:
    """Heat maps of Q over bins (up) along an episode (right), one a dimension, the executed bin marked.

    Args:
        values: float [T, A, K]; bins a dimension does not have are not finite.
        tokens: int [T, A], the executed bins.
        names: of the A dimensions.
    """
    steps, dimensions, _ = values.shape
    columns = min(2, dimensions)
    rows = ceil(dimensions / columns)
    figure = new_figure(WIDTH, 1.75 * rows + 0.55)
    grid = figure.subplots(rows, columns, squeeze=False, sharex=True)
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    for axes in list(grid.flat)[dimensions:]:
        axes.set_visible(False)
    for dimension in range(dimensions):
        axes = grid.flat[dimension]
        bins = np.isfinite(values[:, dimension]).any(axis=0)
        shown = np.ma.masked_invalid(values[:, dimension, : max(1, int(bins.sum()))].T)
        extent = (-0.5, steps - 0.5, -0.5, shown.shape[0] - 0.5)
        image = axes.imshow(
            shown,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            cmap="viridis",
            vmin=low,
            vmax=high,
            extent=extent,
        )
        axes.plot(np.arange(steps), tokens[:, dimension], ".", color="#ffffff", markersize=3.6, markeredgewidth=0)
        axes.set_title(names[dimension], color=INK)
        axes.set_ylabel("bin")
        axes.locator_params(axis="y", nbins=4, integer=True)
        axes.locator_params(axis="x", nbins=6, integer=True)
    for axes in grid[-1]:
        axes.set_xlabel("step of the episode")
    bar = figure.colorbar(image, ax=grid, aspect=40, pad=0.015, fraction=0.03)
    bar.outline.set_edgecolor(GRID)
    bar.set_label("Q")
    return to_svg(figure, title)


@styled
def draw_looks(
    frames: np.ndarray,
    attention: np.ndarray,
    values: np.ndarray,
    tokens: np.ndarray,
    steps: Sequence[int],
    names: Sequence[str],
    title: str,
) -> str:
    """One row a step: the frame, the frame lit where the policy looks, and Q over bins of each dimension.

    Args:
        frames: uint8 [N, H, W, 3].
        attention: float [N, h, w], shares that add up to one over a frame.
        values: float [N, A, K]; bins a dimension does not have are not finite.
        tokens: int [N, A], the executed bins.
        steps: of the episode, the N shown.
        names: of the A dimensions.
    """
    count, height, width = frames.shape[:3]
    figure = new_figure(WIDTH, 1.75 * count + 0.5)
    grid = figure.subplots(count, 3, squeeze=False, width_ratios=[1, 1, 2])
    for row in range(count):
        before, lit, bins = grid[row]
        before.imshow(frames[row], interpolation="nearest")
        before.set_ylabel(f"step {steps[row]}")
        lit.imshow(frames[row].mean(-1), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        # Uniform attention would be 1 everywhere: what is brighter than that is looked at.
        relative = attention[row] * attention[row].size
        lit.imshow(
            relative,
            cmap="inferno",
            alpha=0.6,
            vmin=0,
            vmax=max(2.0, float(relative.max())),
            extent=(-0.5, width - 0.5, height - 0.5, -0.5),
            interpolation="bilinear",
        )
        for axes in (before, lit):
            axes.set_xticks([])
            axes.set_yticks([])
        shown = np.ma.masked_invalid(values[row].T)
        image = bins.imshow(shown, aspect="auto", origin="lower", interpolation="nearest", cmap="viridis")
        bins.plot(np.arange(len(names)), tokens[row], "o", color="#ffffff", markersize=4, markeredgecolor=INK)
        bins.set_ylabel("bin")
        bins.locator_params(axis="y", nbins=4, integer=True)
        bins.set_xticks(range(len(names)), names if row == count - 1 else [""] * len(names))
        bar = figure.colorbar(image, ax=bins, pad=0.02)
        bar.outline.set_edgecolor(GRID)
    for axes, name in zip(grid[0], ("what it sees", "where it looks", "Q over bins"), strict=True):
        axes.set_title(name, color=INK)
    return to_svg(figure, title)


@styled
def draw_value_along(best: np.ndarray, taken: np.ndarray, obtained: np.ndarray, title: str) -> str:
    """The highest Q, the Q of what was done, and the return really obtained, step by step (each float [T])."""
    figure = new_figure(WIDTH, 2.3)
    axes = figure.subplots()
    steps = np.arange(len(best))
    axes.plot(steps, obtained, color=MUTED, linewidth=1.4, linestyle=(0, (4, 3)), label="return obtained")
    axes.plot(steps, taken, color=series_colour(1), linewidth=1.5, label="Q of the executed action")
    axes.plot(steps, best, color=series_colour(0), linewidth=1.5, label="highest Q")
    axes.set_xlabel("step of the episode")
    axes.grid(axis="y")
    axes.figure.legend(loc="outside upper left", ncols=3, labelcolor=INK, handlelength=1.6)
    return to_svg(figure, title)
