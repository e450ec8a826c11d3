"""Blanked fields and shuffled instructions: the policy gets less, everything else stays as it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from qseq.environments import make_environment
from qseq.errors import RequestError
from qseq.evaluation import Actor, evaluate
from qseq.evaluation.ablation import shuffled_instructions

ECHO = "tests.evaluation.test_ablation:toys/echo-v0"


class Echo(gym.Env[Any, Any]):
    """Succeeds where the action is the number that both the instruction and the observation give."""

    def __init__(self, numbers: int = 3) -> None:
        self.observation_space = gym.spaces.Dict({"number": gym.spaces.Box(0, 9, (1,), np.float32)})
        self.action_space = gym.spaces.Discrete(10)
        self.numbers = numbers

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.number = 1 + int(self.np_random.integers(self.numbers))
        return {"number": np.array([self.number], np.float32)}, {"instruction": str(self.number)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        return {"number": np.array([0.0], np.float32)}, 0.0, True, False, {"success": int(action) == self.number}


if "toys/echo-v0" not in gym.registry:
    gym.register("toys/echo-v0", entry_point=Echo)


class Obedient(Actor):
    """Plays the number it hears, or the one it sees."""

    name = "obedient"

    def __init__(self, *, listens: bool) -> None:
        self.listens = listens
        self.heard: Counter[str] = Counter()
        self.starts: list[float] = []

    def start(self, slot: int, env: Any, seed: int, index: int) -> None:
        pass

    def observe_start(self, slot: int, observation: dict[str, Any], info: dict[str, Any]) -> None:
        self.starts.append(float(observation["number"][0]))

    def act(self, slots: Sequence[int], observations: Sequence[Any], instructions: Sequence[str]) -> list[Any]:
        self.heard.update(instructions)
        seen = [int(observation["number"][0]) for observation in observations]
        return [int(text) for text in instructions] if self.listens else seen


def success(actor: Actor, **options: Any) -> float | None:
    return evaluate(actor, ECHO, episodes=24, seed=1, num_envs=5, **options).success_rate


def test_shuffled_instructions_defeat_only_those_who_listen() -> None:
    listens = Obedient(listens=True)
    assert success(listens) == 1.0
    assert success(listens, shuffle_instructions=True) == 0.0
    assert success(Obedient(listens=False), shuffle_instructions=True) == 1.0
    assert set(listens.heard) == {"1", "2", "3"}


def test_blanked_fields_defeat_only_those_who_look() -> None:
    looks = Obedient(listens=False)
    assert success(looks, blank=["number"]) == 0.0
    assert set(looks.starts) == {0.0}
    assert success(Obedient(listens=True), blank=["number"]) == 1.0


def test_every_episode_hears_another_instruction_whatever_the_number_of_environments() -> None:
    env = make_environment(ECHO)
    told = shuffled_instructions(env, episodes=40, seed=7)
    assert told == shuffled_instructions(env, episodes=40, seed=7)
    own = evaluate(Obedient(listens=True), ECHO, episodes=40, seed=7).rows
    assert all(row["task"] != text for row, text in zip(own, told, strict=True))


def test_wrong_requests() -> None:
    with pytest.raises(RequestError, match=r"blank: found 'camera', expected a field of toys/echo-v0: \['number'\]"):
        success(Obedient(listens=True), blank=["camera"])
    with pytest.raises(RequestError, match="found the instruction '1' in all of 24 episodes, expected different ones"):
        evaluate(Obedient(listens=True), ECHO, {"numbers": 1}, episodes=24, shuffle_instructions=True)
    with pytest.raises(RequestError, match="found both an instruction and shuffle_instructions"):
        success(Obedient(listens=True), shuffle_instructions=True, instruction="1")
