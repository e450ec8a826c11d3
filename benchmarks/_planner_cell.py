"""Evaluate one trained planner in PointMaze; prints one line of JSON.

python benchmarks/_planner_cell.py RUN TASK OPTIONS EPISODES SEED

RUN "controller" is the scripted one; OPTIONS are those of the policy, as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qseq import load_policy
from qseq.environments import make_environment
from qseq.environments.pointmaze import DEFAULT_STEPS, maze_map
from qseq.evaluation import PolicyActor, make_actor, wilson_interval
from qseq.evaluation.rollout import EpisodeRecord, rollout

ENVIRONMENT = "qseq.environments.pointmaze:qseq/pointmaze-v0"
CONTROLLER = "scripted:qseq.environments.pointmaze_controller:waypoint_controller"
ENVIRONMENTS = 25


class PlanWatcher(PolicyActor):
    """A planner whose plans are looked at as they are made: which of their states lie inside walls."""

    def __init__(self, policy: Any, task: str) -> None:
        super().__init__(policy)
        self._planner, self._map = policy, maze_map(task)
        self.waypoints = self.in_walls = self.plans = 0

    def act(self, slots: Sequence[int], observations: Sequence[Any], instructions: Sequence[str]) -> list[Any]:
        actions = super().act(slots, observations, instructions)
        for slot in slots:
            plan = self._planner.plans[slot]
            if plan.age == 1:
                inside = self._map.inside_walls(plan.states_HS[:, :2].cpu().numpy())
                self.waypoints += inside.size
                self.in_walls += int(inside.sum())
                self.plans += 1
        return actions


def path_length(record: EpisodeRecord) -> float:
    """Metres travelled."""
    places = np.stack([seen["achieved_goal"] for seen in record.observations])
    return float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())


def drive(
    actor: Any, task: str, episodes: int, seed: int, *, max_episode_steps: int | None = None
) -> list[EpisodeRecord]:
    """Held-out pairs of start and goal; of the maze's own length unless another is given."""
    limit = max_episode_steps or DEFAULT_STEPS[task]
    kwargs = {"task": task, "pairs": "held-out", "stop_at_goal": True, "max_episode_steps": limit}
    environments = [make_environment(ENVIRONMENT, kwargs) for _ in range(min(ENVIRONMENTS, episodes))]
    actor.prepare(environments[0])
    records = list(rollout(actor, environments, range(episodes), seed, keep_steps=True))
    return sorted(records, key=lambda record: record.index)


def evaluate(run: str, task: str, options: dict[str, Any], episodes: int, seed: int) -> dict[str, Any]:
    reference = drive(make_actor(CONTROLLER), task, episodes, seed)
    if run == "controller":
        records, more = reference, {}
    else:
        policy = load_policy(run, **options)
        policy.seed(seed)
        watcher = PlanWatcher(policy, task)
        started = time.perf_counter()
        records = drive(watcher, task, episodes, seed)
        more = {
            "plans": watcher.plans,
            "waypoints_in_walls": watcher.in_walls / watcher.waypoints,
            "seconds": round(time.perf_counter() - started, 1),
        }
    reached = [bool(record.success) for record in records]
    pairs = [(a, b) for a, b, fine in zip(records, reference, reached, strict=True) if fine and b.success]
    ratios = [path_length(a) / path_length(b) for a, b in pairs]
    slower = [a.length / b.length for a, b in pairs]
    return {
        "reach_rate": sum(reached) / len(reached),
        "reach_ci95": list(wilson_interval(sum(reached), len(reached))),
        "median_path_ratio": float(np.median(ratios)) if ratios else None,
        "median_time_ratio": float(np.median(slower)) if slower else None,
        "median_path": float(np.median([path_length(record) for record in records])),
        "missed": [record.index for record in records if not record.success],
        **more,
    }


def main() -> None:
    run, task, options, episodes, seed = sys.argv[1:]
    torch.set_num_threads(1)
    print(json.dumps(evaluate(run, task, json.loads(options), int(episodes), int(seed))))


if __name__ == "__main__":
    main()
