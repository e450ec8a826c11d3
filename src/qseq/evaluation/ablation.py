"""What a policy makes of less: fields blanked, or each episode told the instruction of another.

A policy that does as well without its camera does not look; one that does as well under another episode's instruction
does not listen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from qseq.environments import DictObservation
from qseq.errors import RequestError
from qseq.evaluation.actors import Actor, Observation
from qseq.evaluation.compatibility import env_name, observation_spaces
from qseq.evaluation.seeds import episode_seed


class AblatedActor(Actor):
    """Another actor that does not get to see or hear everything; what the environment does is untouched.

    Args:
        actor: who acts.
        blank: observation fields it sees as zeros (black, for a camera).
        instructions: told to it by episode index, in place of the episode's own.
    """

    def __init__(self, actor: Actor, *, blank: Iterable[str] = (), instructions: Sequence[str] | None = None) -> None:
        self._actor = actor
        self._blank = tuple(blank)
        self._instructions = instructions
        self._episodes: dict[int, int] = {}
        self.name = actor.name
        self.instruction = actor.instruction

    def prepare(self, env: DictObservation) -> None:
        self._actor.prepare(env)
        fields = observation_spaces(env)
        for name in self._blank:
            if name not in fields:
                raise RequestError(f"blank: found '{name}', expected a field of {env_name(env)}: {sorted(fields)}")

    def start(self, slot: int, env: DictObservation, seed: int, index: int) -> None:
        self._episodes[slot] = index
        self._actor.start(slot, env, seed, index)

    def observe_start(self, slot: int, observation: Observation, info: dict[str, Any]) -> None:
        self._actor.observe_start(slot, self._seen(observation), info)

    def act(self, slots: Sequence[int], observations: Sequence[Observation], instructions: Sequence[str]) -> list[Any]:
        if self._instructions is not None:
            instructions = [self._instructions[self._episodes[slot]] for slot in slots]
        return self._actor.act(slots, [self._seen(observation) for observation in observations], instructions)

    def abandons(self, slot: int) -> bool:
        return self._actor.abandons(slot)

    def _seen(self, observation: Observation) -> Observation:
        return {name: np.zeros_like(x) if name in self._blank else x for name, x in observation.items()}


def shuffled_instructions(env: DictObservation, *, episodes: int, seed: int) -> list[str]:
    """For each of the episodes of an evaluation, the instruction of another that differs from its own.

    The environment is reset once for each, with the evaluation's own seeds.

    Raises:
        RequestError: all episodes have the same instruction.
    """
    own = [str(env.reset(seed=episode_seed(seed, index))[1].get("instruction", "")) for index in range(episodes)]
    if len(set(own)) < 2:
        raise RequestError(
            f"{env_name(env)}: found the instruction '{own[0]}' in all of {episodes} episodes, expected different "
            "ones to shuffle"
        )
    rng = np.random.default_rng([seed, 3])
    return [str(rng.choice([other for other in own if other != text])) for text in own]
