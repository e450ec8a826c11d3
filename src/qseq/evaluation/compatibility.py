"""Whether a policy and an environment fit, found out before anything is stepped or written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium as gym

from qseq.environments import DictObservation, space_to_json
from qseq.episodes import ActionSpace
from qseq.errors import RequestError

if TYPE_CHECKING:
    from qseq.policies import Policy


def require_compatible(policy: Policy, env: DictObservation) -> None:
    """Compare what the policy reads and does with what the environment shows and accepts.

    Raises:
        RequestError: names the field (or "action"), what was found and what was expected.
    """
    name = env_name(env)
    spaces = observation_spaces(env)
    for field, expected in policy.observation_fields.items():
        if field not in spaces:
            raise RequestError(
                f"{name} does not fit the policy: observation field '{field}' is missing, "
                f"found {', '.join(sorted(spaces))}; use the environment the policy was trained for"
            )
        found = spaces[field].shape
        if tuple(found or ()) != tuple(expected):
            raise RequestError(
                f"{name} does not fit the policy: observation field '{field}' has shape {list(found or ())}, "
                f"expected {list(expected)}"
            )
    found_action, expected_action = canonical(space_to_json(env.action_space)), canonical(policy.action_space)
    if found_action != expected_action:
        raise RequestError(
            f"{name} does not fit the policy: action space is {found_action}, expected {expected_action}"
        )


def observation_spaces(env: DictObservation) -> dict[str, gym.Space[Any]]:
    """Field name -> space of one frame."""
    assert isinstance(env.observation_space, gym.spaces.Dict)
    return dict(env.observation_space.spaces)


def env_name(env: DictObservation) -> str:
    """How messages name the environment."""
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__


def canonical(action_space: dict[str, Any]) -> dict[str, Any]:
    """The one form that equal action spaces share."""
    return ActionSpace.from_json(action_space).to_json()
