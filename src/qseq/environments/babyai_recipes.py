"""Ways of collecting poor data in BabyAI on purpose: `qseq.environments.recipes`, for missions instead of robots.

Each part is one `qseq collect --env qseq.environments.babyai:qseq/babyai-v0 --policy
scripted:qseq.environments.babyai_bot:corrupted_bot` into the same store, with a seed of its own. The numbers were found
by measurement on GoToLocal and PickupLoc; other tasks take those of PickupLoc.

Successes among 350 episodes on GoToLocal (range over three seeds) | on PickupLoc:

- corrupted: most episodes are sent to the wrong object, and 30 % of all actions are random (25.4-30.9 % | 22.6-31.1 %).
- misheard: as corrupted, and of the wrong objects seven in ten differ from the right one in a single word of the
  mission, where the room holds such an object (28.6 % | 26.3 % of 24,000 episodes).
- sloppy-success: half of all actions are random, also in the episodes that succeed, and last for three steps each
  (27.7-29.1 % | 22.9-30.0 %).

Of the episodes that fail, 98-100 % | 95-97 % have reached a wrong object.
"""

from __future__ import annotations

from typing import Any

from qseq.environments.recipes import Kwargs, RecipePart
from qseq.errors import RequestError

ENV_ID = "qseq.environments.babyai:qseq/babyai-v0"
POLICY = "scripted:qseq.environments.babyai_bot:corrupted_bot"

_PICKUP: Kwargs = {"wrong_object": 0.74, "random_probability": 0.3, "random_steps": 1, "linger": [0, 6]}
# To face the right object in passing is a success where the mission is to go there, so the idea of it must be wrong
# more often.
_ERRORS: dict[str, Kwargs] = {"GoToLocal": {**_PICKUP, "wrong_object": 0.82}}
_SLOPPY: Kwargs = {"random_probability": 0.5, "random_steps": 3}

_MISHEARD = 0.7

RECIPES = ("corrupted", "misheard", "sloppy-success")


def babyai_recipe(name: str, task: str = "GoToLocal") -> tuple[RecipePart, ...]:
    """The parts of a recipe for one task; their fractions add up to 1.

    Raises:
        RequestError: there is no such recipe. Whether there is such a task, the environment says.
    """
    errors = _ERRORS.get(task, _PICKUP)
    if name == "corrupted":
        return (_part("corrupted", task, errors),)
    if name == "misheard":
        return (_part("misheard", task, {**errors, "misheard": _MISHEARD}),)
    if name == "sloppy-success":
        return (_part("sloppy", task, {**errors, **_SLOPPY}),)
    raise RequestError(f"there is no BabyAI recipe '{name}': expected one of {', '.join(RECIPES)}")


def _part(name: str, task: str, policy_kwargs: Kwargs) -> RecipePart:
    env: dict[str, Any] = {"task": task, "max_episode_steps": 64}
    return RecipePart(
        name=name, fraction=1.0, env_kwargs=env, policy_kwargs=dict(policy_kwargs), env_id=ENV_ID, policy=POLICY
    )
