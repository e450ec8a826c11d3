"""A world of three steps: what is done in the first decides the reward after the last, so values must travel.

Legend: A action dimensions.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from qseq import BaseEnvironment, EpisodeStore, StoreWriter

INSTRUCTIONS = ("pull the left lever", "pull the right lever")
STEPS = 3


class LateReward(BaseEnvironment):
    """State: [step, goal if it is not told, first action...]. Rewarded is the first action `wanted(goal)` alone.

    Args:
        num_actions: A, 1 or 2, of 2 bins.
        told: the goal stands in the instruction, not in the state.
    """

    def __init__(self, num_actions: int, *, told: bool = True) -> None:
        super().__init__(state_shape=(2 + num_actions,), text_embed_shape=16)
        self.num_actions, self.told = num_actions, told
        self._generator = torch.Generator()

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    def init(self) -> tuple[str, Tensor]:
        self.time, self.first = 0, torch.zeros(self.num_actions)
        self.goal = int(torch.randint(2, (), generator=self._generator))
        return INSTRUCTIONS[self.goal] if self.told else "", self._state()

    def forward(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        if self.time == 0:
            self.first = 2.0 * actions[0] - 1.0
        self.time += 1
        done = self.time == STEPS
        good = (self.first > 0).int().tolist() == wanted(self.goal, self.num_actions)
        return torch.tensor(float(done and good)), self._state(), torch.tensor(done)

    def _state(self) -> Tensor:
        goal = 0.0 if self.told else 2.0 * self.goal - 1.0
        return torch.cat((torch.tensor([float(self.time), goal]), self.first))


def wanted(goal: int, num_actions: int) -> list[int]:
    """Bins of the first action that is rewarded: the second dimension is right given the first only."""
    return [goal, 1 - goal][:num_actions]


def with_flipped_rewards(source: Path, destination: Path) -> None:
    """The same episodes, rewarded where they were not and the other way round."""
    store = EpisodeStore.open(source)
    with StoreWriter(destination, store.schema) as writer:
        for index in range(store.num_episodes):
            episode = store.episode(index)
            rewards = episode.rewards.copy()
            rewards[-1] = 1.0 - rewards[-1]
            writer.add(replace(episode, rewards=rewards))
