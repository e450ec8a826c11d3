"""What a planner draws over a maze: candidates coming out of the noise, the chosen one, and the way driven.

Legend: C candidates, H planned states, T steps driven.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from qseq.environments import make_environment
from qseq.environments.maze_map import MazeMap
from qseq.errors import QseqError
from qseq.policies import locate_policy, read_description
from qseq.reporting.page import Section, figure, heading
from qseq.reporting.svg import GOOD, GRID, INK, MARK, MUTED, PAPER, new_figure, series_colour, styled, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from qseq.reporting.data_section import DataSource
    from qseq.reporting.runs import Run

TITLE = "How it plans"
KIND = "diffuser"
SEED = 7
SHOWN_STEPS = 3
MOST_STEPS = 2000


@dataclass(frozen=True)
class DrivenPlan:
    """One episode of a planner.

    Attributes:
        maze: what it drove through.
        levels: places of all candidates [C, H, 2] after some of the denoising steps, noise first, the final ones last.
        values: of the final candidates, [C].
        chosen: which was taken.
        driven: [T + 1, 2].
        goal: [2].
        reached: whether the goal was.
    """

    maze: MazeMap
    levels: list[np.ndarray]
    values: np.ndarray
    chosen: int
    driven: np.ndarray
    goal: np.ndarray
    reached: bool


def plan_sections(runs: Sequence[Run], sources: Sequence[DataSource]) -> list[Section]:
    """One section about the planners among the runs; none where there are none."""
    planners: dict[str, Run] = {}
    for run in runs:
        if is_planner(run):
            planners.setdefault(run.method, run)
    if not planners:
        return []
    blocks, problems = [], []
    for run in planners.values():
        try:
            driven = drive(run, sources)
        except (QseqError, OSError) as error:
            problems.append(f"{run.method}: {error}.")
            continue
        if driven is None:
            problems.append(f"{run.method} plans in a world that is no maze: nothing is drawn.")
        else:
            blocks.append(heading(run.method) + figure(draw(driven, run.method), describe(driven)))
    line = "From noise to plans, for one start and goal that are in no data; then the way that was driven."
    return [Section(TITLE, " ".join([line][: len(blocks)] + problems), "".join(blocks))]


def is_planner(run: Run) -> bool:
    try:
        return bool(read_description(locate_policy(run.path))["kind"] == KIND)
    except (QseqError, OSError):
        return False


def drive(run: Run, sources: Sequence[DataSource]) -> DrivenPlan | None:
    """One episode from a start to a goal that are held out; None where the data come from no maze."""
    import torch

    from qseq.registry import load_policy

    described = next((s.store.schema.env for s in sources if s.name in run.data and s.store is not None), None)
    if described is None or "pointmaze" not in str(described.get("id", "")):
        return None
    kwargs = {"task": described["kwargs"].get("task", "medium"), "pairs": "held-out", "stop_at_goal": True}
    policy: Any = load_policy(run.path)
    fields = policy.spec.data
    if not fields.goal_field:
        return None
    env = make_environment(str(described["id"]), kwargs)
    try:
        world: Any = env.unwrapped
        observation, _ = env.reset(seed=SEED)
        generator = torch.Generator().manual_seed(SEED)
        state, goal = (torch.from_numpy(observation[name])[None] for name in (fields.state_field, fields.goal_field))
        plans = policy.planner.plan(state, goal, generator=generator, keep_trace=True)
        places = [observation["achieved_goal"]]
        policy.seed(SEED)
        reached = False
        for _ in range(MOST_STEPS):
            seen = {name: observation[name] for name in policy.observation_fields}
            observation, _, terminated, truncated, info = env.step(policy.act(seen))
            places.append(observation["achieved_goal"])
            reached = reached or bool(info["success"])
            if terminated or truncated:
                break
    finally:
        env.close()
    entries = list(fields.goal_dimensions)
    chosen_steps = np.unique(np.linspace(0, len(plans.trace) - 1, SHOWN_STEPS).round().astype(int))
    return DrivenPlan(
        maze=world.map,
        levels=[plans.trace[step][0][..., entries].numpy() for step in chosen_steps.tolist()],
        values=plans.values_EC[0].numpy(),
        chosen=int(plans.chosen_E[0]),
        driven=np.stack(places),
        goal=goal[0].numpy(),
        reached=reached,
    )


def describe(driven: DrivenPlan) -> str:
    length = float(np.linalg.norm(np.diff(driven.driven, axis=0), axis=1).sum())
    end = "reached the goal" if driven.reached else "did not reach the goal"
    return (
        f"{len(driven.values)} candidates of {driven.levels[-1].shape[1]} states; the chosen one has the highest value "
        f"as it finally is. Driven, with new plans on the way: {length:.1f} m in {len(driven.driven) - 1} steps, {end}."
    )


@styled
def draw(driven: DrivenPlan, method: str) -> str:
    """Panels from left to right: noise, half-way, final plans and the chosen one, the way driven."""
    panels = len(driven.levels) + 1
    canvas = new_figure(8.6, 8.6 / panels + 0.45)
    grid = canvas.subplots(1, panels, squeeze=False)[0]
    names = ["noise", *["half-way"] * (len(driven.levels) - 2), "plans, and the chosen one"]
    for axes, places, name in zip(grid, driven.levels, names, strict=False):
        draw_maze(axes, driven, name)
        for candidate, path in enumerate(places):
            axes.plot(*path.T, color=MUTED, linewidth=0.7, alpha=0.5, zorder=2 + (candidate == driven.chosen))
    axes = grid[-2]
    axes.plot(
        *driven.levels[-1][driven.chosen].T, color=series_colour(0), linewidth=2, marker="o", markersize=2.5, zorder=4
    )
    draw_maze(grid[-1], driven, "driven")
    grid[-1].plot(*driven.driven.T, color=series_colour(1), linewidth=2, zorder=3)
    return to_svg(canvas, f"Plans over the maze, {method}")


def draw_maze(axes: Axes, driven: DrivenPlan, name: str) -> None:
    height, width = driven.maze.walls.shape
    extent = (-width / 2, width / 2, -height / 2, height / 2)
    axes.set_title(name, color=INK)
    for row, column in np.argwhere(driven.maze.walls):
        x, y = driven.maze.centre((int(row), int(column)))
        axes.fill([x - 0.5, x + 0.5, x + 0.5, x - 0.5], [y - 0.5, y - 0.5, y + 0.5, y + 0.5], color=GRID, linewidth=0)
    axes.plot(*driven.driven[0], marker="o", color=GOOD, markersize=6, markeredgecolor=PAPER, zorder=5)
    axes.plot(*driven.goal, marker="*", color=MARK, markersize=10, markeredgecolor=PAPER, zorder=5)
    axes.set_xlim(extent[0], extent[1])
    axes.set_ylim(extent[2], extent[3])
    axes.set_aspect("equal")
    axes.axis("off")
