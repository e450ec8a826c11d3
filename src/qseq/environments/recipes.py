"""Ways of collecting poor data on purpose, to learn from what a cloner cannot.

Each part is one `qseq collect --env qseq.environments.metaworld:qseq/metaworld-v3 --policy
scripted:qseq.environments.scripted:corrupted_expert` into the same store, with a seed of its own. The numbers were
found by measurement on push-v3 and drawer-open-v3; other tasks take those of push-v3.

Successes among 350 to 360 episodes on push-v3 (range over three to eight seeds) | on drawer-open-v3 (two or three):

- corrupted: most episodes have a wrong goal or object (14.2-18.3 % | 33.1-36.7 %).
- scarce: nothing but hopeless episodes and a few good ones (9-14 episodes | 12).
- sloppy-success: 40 % of all actions are random, also in the episodes that succeed, and last for four steps each
  (10.3-12.2 % | 41.4 %, one seed). Single random steps would leave the most frequent action the right one, and greedy
  imitation of the successes nearly perfect (95 % on push-v3).
- half-finished: first halves, abandoned, most of them bad (none succeeds), and second halves that start part-way
  (90-95 % | 99.4-100 %); no episode shows the whole task.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from qseq.environments.metaworld_tasks import INSTRUCTIONS
from qseq.errors import RequestError

ENV_ID = "qseq.environments.metaworld:qseq/metaworld-v3"
POLICY = "scripted:qseq.environments.scripted:corrupted_expert"

Kwargs = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class RecipePart:
    """One collection: its share of the episodes, and what `qseq collect` is told."""

    name: str
    fraction: float
    env_kwargs: Kwargs = field(default_factory=dict)
    policy_kwargs: Kwargs = field(default_factory=dict)
    env_id: str = ENV_ID
    policy: str = POLICY


# How wrong the wrong ideas are, and how often they occur where goal and object errors are mixed. The drawer's expert
# does not look at the goal and forgives small errors of the handle's place, so there the object must be wrong more
# often and by more.
_PUSH: Kwargs = {
    "wrong_goal": 0.45,
    "wrong_object": 0.41,
    "goal_offset": [0.12, 0.2],
    "object_offset": [0.05, 0.12],
    "noise_scale": 0.15,
    "noise_correlation": 0.8,
    "random_probability": 0.1,
}
_DRAWER: Kwargs = {**_PUSH, "wrong_goal": 0.2, "wrong_object": 0.67, "object_offset": [0.06, 0.15]}
_ERRORS = {"drawer-open-v3": _DRAWER}
# Nothing but errors. On push-v3 about one episode in a hundred succeeds by luck, on drawer-open-v3 none does.
_HOPELESS: dict[str, Kwargs] = {
    "drawer-open-v3": {"wrong_goal": 0.0, "wrong_object": 1.0, "object_offset": [0.09, 0.16]},
}
_PUSH_HOPELESS: Kwargs = {
    "wrong_goal": 0.52,
    "wrong_object": 0.48,
    "overshoot": False,
    "goal_offset": [0.1, 0.2],
    "object_offset": [0.07, 0.12],
}
_CLEAN: Kwargs = {"wrong_goal": 0.0, "wrong_object": 0.0}
_SCARCE_FRACTION = {"drawer-open-v3": 0.034}
# Fumbles alone make most episodes fail, so fewer errors are needed.
_SLOPPY: dict[str, Kwargs] = {"drawer-open-v3": {**_HOPELESS["drawer-open-v3"], "wrong_object": 0.5}}
_PUSH_SLOPPY: Kwargs = {
    "wrong_goal": 0.15,
    "wrong_object": 0.15,
    "overshoot": False,
    "goal_offset": [0.16, 0.22],
    "object_offset": [0.08, 0.12],
}

RECIPES = ("corrupted", "scarce", "sloppy-success", "half-finished")


def recipe(name: str, task: str = "push-v3") -> tuple[RecipePart, ...]:
    """The parts of a recipe for one task; their fractions add up to 1.

    Raises:
        RequestError: there is no such recipe or task.
    """
    if task not in INSTRUCTIONS:
        raise RequestError(f"there is no Meta-World task '{task}': expected one of {', '.join(INSTRUCTIONS)}")
    errors = _ERRORS.get(task, _PUSH)
    hopeless = {**errors, **_HOPELESS.get(task, _PUSH_HOPELESS)}
    if name == "corrupted":
        return (_part("corrupted", 1.0, task, errors),)
    if name == "scarce":
        # Two parts, so that the number of successes hardly depends on the seed.
        rare = {**errors, **_CLEAN, "noise_scale": 0.05}
        share = _SCARCE_FRACTION.get(task, 0.02)
        return _part("scarce", 1.0 - share, task, hopeless), _part("scarce-clean", share, task, rare)
    if name == "sloppy-success":
        sloppy = {**errors, **_SLOPPY.get(task, _PUSH_SLOPPY), "noise_scale": 0.1}
        sloppy |= {"random_probability": 0.4, "random_steps": 4}
        return (_part("sloppy", 1.0, task, sloppy, max_episode_steps=250),)
    if name == "half-finished":
        # First halves end before the fastest expert succeeds; second halves begin where those end, and earlier.
        first = {**errors, "wrong_goal": 0.3, "wrong_object": 0.35, "abandon": [0.4, 0.7]}
        second = {**errors, **_CLEAN, "noise_scale": 0.1}
        return (
            _part("first-half", 0.5, task, first),
            _part("second-half", 0.5, task, second, start="part-way", start_range=[0.4, 0.65], start_noise=0.15),
        )
    raise RequestError(f"there is no recipe '{name}': expected one of {', '.join(RECIPES)}")


def _part(name: str, fraction: float, task: str, policy_kwargs: Kwargs, **env_kwargs: Any) -> RecipePart:
    env = {"task": task, "max_episode_steps": 150, **env_kwargs}
    return RecipePart(name=name, fraction=fraction, env_kwargs=env, policy_kwargs=dict(policy_kwargs))
