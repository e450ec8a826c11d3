"""Who acts: a policy, a scripted policy or chance, behind one interface for evaluation and collection.

A slot is one of the environments stepped together; an actor keeps what it remembers for each slot apart.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np

from qseq.environments import DictObservation, space_from_json, space_to_json
from qseq.environments.scripted import ScriptedPolicy, load_scripted
from qseq.errors import RequestError
from qseq.evaluation.compatibility import require_compatible
from qseq.evaluation.seeds import actor_rng, policy_seed

if TYPE_CHECKING:
    from qseq.policies import Policy

Observation = dict[str, Any]


class Actor(ABC):
    """Gives an action for each slot."""

    name: str
    """What data sets call it, such as "random"."""
    instruction: str | None = None
    """Told to it instead of what the environment says, and recorded in that one's place."""

    def fingerprint(self) -> str:
        """Text that differs between actors that may act differently."""
        return self.name

    def prepare(self, env: DictObservation) -> None:  # noqa: B027 (nothing to check is a fine default)
        """Check, before anything is stepped, that it can act in `env`. Raises RequestError if it cannot."""

    @abstractmethod
    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        """Episode `index` begins in `slot`; randomness is a function of (seed, index). Called before the reset."""

    def observe_start(self, slot: int, observation: Observation, info: dict[str, Any]) -> None:  # noqa: B027
        """What the reset returned."""

    @abstractmethod
    def act(self, slots: Sequence[int], observations: Sequence[Observation], instructions: Sequence[str]) -> list[Any]:
        """One action for each of the slots."""

    def abandons(self, slot: int) -> bool:
        """Whether the episode in `slot` is given up now."""
        return False


class RandomActor(Actor):
    """Uniformly random actions (Gymnasium's own sampling where a box is unbounded)."""

    name = "random"

    def __init__(self) -> None:
        self._spaces: dict[int, gym.Space[Any]] = {}

    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        if slot not in self._spaces:
            self._spaces[slot] = space_from_json(space_to_json(env.action_space))
        self._spaces[slot].seed(int(actor_rng(seed, index).integers(2**31)))

    def act(self, slots: Sequence[int], observations: Sequence[Observation], instructions: Sequence[str]) -> list[Any]:
        return [self._spaces[slot].sample() for slot in slots]


class ScriptedActor(Actor):
    """A scripted policy, made anew for each episode.

    Args:
        name: "scripted:package.module:NAME", the prefix may be left out.
        kwargs: its keyword arguments.

    Raises:
        RequestError: there is no such class or function.
    """

    def __init__(self, name: str, kwargs: Mapping[str, Any] | None = None) -> None:
        self._factory = load_scripted(name)
        self.name = "scripted:" + name.removeprefix("scripted:")
        self.kwargs = dict(kwargs or {})
        self._policies: dict[int, ScriptedPolicy] = {}

    def fingerprint(self) -> str:
        return f"{self.name} {json.dumps(self.kwargs, sort_keys=True)}"

    def prepare(self, env: DictObservation) -> None:
        policy = self._make(env, np.random.default_rng(0))
        policy.reset(*env.reset(seed=0))

    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        self._policies[slot] = self._make(env, actor_rng(seed, index))

    def observe_start(self, slot: int, observation: Observation, info: dict[str, Any]) -> None:
        self._policies[slot].reset(observation, info)

    def act(self, slots: Sequence[int], observations: Sequence[Observation], instructions: Sequence[str]) -> list[Any]:
        return [self._policies[slot].act(seen) for slot, seen in zip(slots, observations, strict=True)]

    def abandons(self, slot: int) -> bool:
        done = getattr(self._policies[slot], "done", None)
        return bool(done()) if done is not None else False

    def _make(self, env: DictObservation, rng: np.random.Generator) -> ScriptedPolicy:
        try:
            return self._factory(env, rng, **self.kwargs)
        except TypeError as error:
            raise RequestError(
                f"{self.name} refuses its arguments {self.kwargs}: {error}; see its signature"
            ) from error


class PolicyActor(Actor):
    """A trained policy, asked for all slots at once.

    Args:
        policy: see `qseq.policies.Policy`.
        name: what data sets call it.
        instruction: told to it instead of what the environment says.
        reseed: fix its random choices at each episode's start; for one slot only, as slots share them.
    """

    def __init__(
        self, policy: Policy, *, name: str = "policy", instruction: str | None = None, reseed: bool = False
    ) -> None:
        self.policy = policy
        self.name = name
        self.instruction = instruction
        self._reseed = reseed

    def fingerprint(self) -> str:
        return f"{self.name} {json.dumps(self.policy.describe(), sort_keys=True, default=str)} {self.instruction!r}"

    def prepare(self, env: DictObservation) -> None:
        require_compatible(self.policy, env)

    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        self.policy.reset([slot])
        if self._reseed:
            self.policy.seed(policy_seed(seed, index))

    def act(self, slots: Sequence[int], observations: Sequence[Observation], instructions: Sequence[str]) -> list[Any]:
        batch = {
            field: np.stack([observation[field] for observation in observations])
            for field in self.policy.observation_fields
        }
        texts = list(instructions) if self.policy.takes_instructions else None
        if self.instruction is not None:
            texts = [self.instruction] * len(slots)
        return list(np.asarray(self.policy.act(batch, texts, environment_ids=list(slots))))


def make_actor(policy: str, kwargs: Mapping[str, Any] | None = None) -> Actor:
    """The actor that "random" or "scripted:package.module:NAME" means.

    Raises:
        RequestError: it is neither, or there is no such scripted policy.
    """
    if policy == "random":
        if kwargs:
            raise RequestError(f"the random policy takes no arguments, found {dict(kwargs)}")
        return RandomActor()
    if policy.startswith("scripted:"):
        return ScriptedActor(policy, kwargs)
    raise RequestError(f"policy '{policy}': expected random, scripted:PKG.MOD:NAME or a trained policy")
