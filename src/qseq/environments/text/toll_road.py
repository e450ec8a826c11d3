"""A road with tolls: rewards in the middle of a sequence, most of them negative.

The prompt is the lane one starts in, the answer the lanes of the next `length` stretches, a letter each. Changing lanes
costs by the distance, more on some stretches than on others. In the middle is a toll gate, dearer in some lanes; at the
end a prize is paid to those who end in the lane whose toll they paid. What is best must be planned from the first
letter: the gate that costs most may be worth it. Costs and prizes are drawn from a seed and never told.
"""

from __future__ import annotations

import numpy as np

from qseq.environments.text.base import FiniteStarts, TextStep
from qseq.errors import RequestError

LANES = "abcdef"
UNFINISHED = -20.0


class TollRoad(FiniteStarts):
    """One road; one starts in each of its lanes with equal probability.

    Args:
        road_seed: of costs and prizes.
        lanes: 2 to 6.
        length: letters of an answer, at least 3; the gate is at the middle one.

    Raises:
        RequestError: an argument is out of its range.
    """

    single_turn = True

    def __init__(self, road_seed: int = 31, *, lanes: int = 4, length: int = 6) -> None:
        if not 2 <= lanes <= len(LANES) or length < 3:
            raise RequestError(
                f"toll road: lanes={lanes}, length={length}: expected 2 to {len(LANES)} lanes, length 3 or more"
            )
        rng = np.random.default_rng(road_seed)
        self.lanes, self.length, self.gate = LANES[:lanes], length, length // 2
        self.change_costs = [int(cost) for cost in rng.integers(1, 3, size=length)]
        # A dearer gate pays better, by how much is chance.
        self.tolls = [int(toll) for toll in np.sort(rng.choice(np.arange(1, 9), size=lanes, replace=False))]
        self.prizes = [toll + int(gain) for toll, gain in zip(self.tolls, rng.integers(-1, 8, size=lanes), strict=True)]
        order = rng.permutation(lanes)
        self.tolls, self.prizes = [self.tolls[i] for i in order], [self.prizes[i] for i in order]
        self._start = 0
        self._rewards: list[float] = []
        self._known: dict[tuple[int, int, int], tuple[float, str]] = {}

    @property
    def num_starts(self) -> int:
        return len(self.lanes)

    def reset_to(self, start: int) -> str:
        self._start, self._rewards = start, []
        return self.lanes[start]

    def step(self, action: str) -> TextStep:
        drive = "".join(action.split())[: self.length]
        known = next((i for i, letter in enumerate(drive) if letter not in self.lanes), len(drive))
        self._rewards = self.rewards(self._start, drive[:known])
        if known < self.length:
            # The road is left before its end: by a letter that is no lane, or by stopping.
            self._rewards.append(UNFINISHED)
        return TextStep("", float(sum(self._rewards)), True, False)

    def success(self) -> bool:
        return len(self._rewards) == self.length and sum(self._rewards) >= self.best_return(self._start)

    def token_rewards(self) -> list[float]:
        return list(self._rewards)

    def rewards(self, start: int, drive: str) -> list[float]:
        """Of each letter of `drive`, which may be shorter than the road."""
        rewards, lane, paid = [], start, -1
        for stretch, letter in enumerate(drive):
            chosen = self.lanes.index(letter)
            paid = chosen if stretch == self.gate else paid
            rewards.append(self._reward(stretch, lane, chosen, paid))
            lane = chosen
        return rewards

    def best_drive(self, start: int) -> str:
        """The best answer, by dynamic programming over (stretch, lane, lane whose toll was paid)."""
        return self._onward(0, start, -1)[1]

    def best_return(self, start: int) -> float:
        """Of the best answer."""
        return self._onward(0, start, -1)[0]

    def optimal_return(self) -> float:
        return float(np.mean([self.best_return(start) for start in range(self.num_starts)]))

    def vocabulary(self) -> list[str]:
        return list(self.lanes)

    def _reward(self, stretch: int, lane: int, chosen: int, paid: int) -> float:
        reward = -float(self.change_costs[stretch] * abs(chosen - lane))
        if stretch == self.gate:
            reward -= self.tolls[chosen]
        if stretch == self.length - 1 and chosen == paid:
            reward += self.prizes[chosen]
        return reward

    def _onward(self, stretch: int, lane: int, paid: int) -> tuple[float, str]:
        """The best return from a place on the road, and the letters that bring it."""
        if stretch == self.length:
            return 0.0, ""
        if (stretch, lane, paid) not in self._known:
            found = []
            for chosen, letter in enumerate(self.lanes):
                toll_of = chosen if stretch == self.gate else paid
                value, letters = self._onward(stretch + 1, chosen, toll_of)
                found.append((self._reward(stretch, lane, chosen, toll_of) + value, letter + letters))
            self._known[stretch, lane, paid] = max(found)
        return self._known[stretch, lane, paid]
