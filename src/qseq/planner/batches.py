"""Training data of a planner: strided windows of episodes, with goals looked up in hindsight.

Legend: B windows, H planned states, S entries of a state, A entries of an action, G entries of a goal, N steps of a
window.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

from qseq.episodes import EpisodeView, Windows, WindowSpec
from qseq.errors import DataError
from qseq.planner.spec import PlannerSpec


@dataclass(frozen=True)
class PlanBatch:
    """B windows of the data, in its units.

    Attributes:
        states_BHS: the planned states: `stride` steps apart; behind the episode's end its last state, repeated.
        inside_BH: False behind the end.
        actions_BHA: the action taken at each planned state; 0 where none was.
        acted_BH: False at the episode's last state and behind it.
        rewards_BN: of every step of the window, 0 behind the end.
        steps_BH: environment steps from the window's first state to each planned one, at most to the end.
        terminated_BH: the planned state is terminal: nothing comes after it.
        returns_B: discounted return to go of the window's first state.
        goals_BHG: a goal for each planned state, drawn in hindsight; empty without goals.
        goal_steps_BH: steps from the planned state until its goal was reached in this episode; -1 if it was not.
        goal_places_B: the planned state whose goal entries are known, as where a goal is set: any of those inside, as a
            goal may be reached before the end; 0, the first state, where none is.
        moves_BM: some of the moves, by the planned state they begin at. Those of one window are much alike: a few tell
            values and inverse dynamics as much as all, for a fraction of the work.
    """

    states_BHS: Tensor
    inside_BH: Tensor
    actions_BHA: Tensor
    acted_BH: Tensor
    rewards_BN: Tensor
    steps_BH: Tensor
    terminated_BH: Tensor
    returns_B: Tensor
    goals_BHG: Tensor
    goal_steps_BH: Tensor
    goal_places_B: Tensor
    moves_BM: Tensor

    def to(self, device: torch.device | str) -> PlanBatch:
        """The same batch on another device."""
        return PlanBatch(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __len__(self) -> int:
        return len(self.states_BHS)

    def moves(self) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """Indices into the first two dimensions: of the states where the moves begin, and where they end."""
        rows_B1 = torch.arange(len(self), device=self.moves_BM.device)[:, None]
        return (rows_B1, self.moves_BM), (rows_B1, self.moves_BM + 1)


class PlanBatches:
    """An endless stream of batches; which comes at an index is a pure function of (seed, index).

    Every step of the data begins a window once an epoch, also where the episode ends before the window does: what is
    behind the end is marked, and no loss looks at it.

    Attributes:
        counts: windows and episodes of the data, and how many of them are as long as a plan.

    Raises:
        DataError: no episode is long enough for two planned states.
    """

    def __init__(self, view: EpisodeView, spec: PlannerSpec, *, batch_size: int, seed: int) -> None:
        self.view = view
        self.spec = spec
        self.seed = seed
        plan = spec.trajectory
        self._later = [plan.stride * number for number in range(1, plan.horizon)]
        length = max(self._later, default=1)
        if self._later and view.lengths.max() < plan.stride:
            raise DataError(
                f"data: found episodes of at most {view.lengths.max()} steps, expected more than trajectory.stride="
                f"{plan.stride}: no episode holds two planned states; set a smaller stride"
            )
        self._windows = Windows(
            view,
            WindowSpec(bootstrap_steps=tuple(self._later), num_action_steps=length + 1),
            batch_size=batch_size,
            seed=seed,
            discount=spec.value.discount,
            min_return=0.0,
            fields=[spec.data.state_field],
        )
        whole = np.maximum(view.lengths - length + 1, 0) if self._later else view.lengths
        self.counts = {
            "windows": view.num_steps,
            "full_windows": int(whole.sum()),
            "episodes": view.num_episodes,
            "episodes_shorter_than_a_plan": int((view.lengths < length).sum()),
            "longest_episode": int(view.lengths.max()),
        }

    def batch_at(self, index: int) -> PlanBatch:
        """The index-th batch."""
        batch = self._windows.batch_at(index)
        plan = self.spec.trajectory
        states_BHS = batch.frames[self.spec.data.state_field].flatten(2).float()
        ones_B1 = torch.ones(len(states_BHS), 1, dtype=torch.bool)
        steps_BH = torch.cat([torch.zeros(len(states_BHS), 1, dtype=torch.int64), batch.bootstrap_steps], dim=1)
        inside_BH = torch.cat([ones_B1, batch.bootstrap_steps == torch.tensor(self._later)], dim=1)
        at_states = torch.arange(plan.horizon) * plan.stride
        acted_BH = batch.step_mask[:, at_states]
        actions_BHA = batch.actions.flatten(2).float()[:, at_states] * acted_BH.unsqueeze(-1)
        goals_BHG, goal_steps_BH = self._goals(batch, steps_BH, index)
        rng = np.random.default_rng([self.seed, index, 1])
        order_BK = np.argsort(rng.random((len(states_BHS), plan.horizon - 1)), axis=1)
        return PlanBatch(
            states_BHS=states_BHS,
            inside_BH=inside_BH,
            actions_BHA=actions_BHA,
            acted_BH=acted_BH,
            rewards_BN=batch.rewards,
            steps_BH=steps_BH,
            terminated_BH=torch.cat([~ones_B1, batch.bootstrap_terminated], dim=1),
            returns_B=batch.returns_to_go,
            goals_BHG=goals_BHG,
            goal_steps_BH=goal_steps_BH,
            goal_places_B=self._goal_places(inside_BH, rng),
            moves_BM=torch.from_numpy(order_BK[:, : self.spec.value.moves]),
        )

    def _goal_places(self, inside_BH: Tensor, rng: np.random.Generator) -> Tensor:
        last_B = inside_BH.sum(1) - 1
        chance_B, where_B = torch.from_numpy(rng.random((2, len(last_B))))
        places_B = (1 + (where_B * last_B).long()).minimum(last_B)
        shown_B = (chance_B < self.spec.diffusion.goal_known) & self.spec.has_goals
        return torch.where(shown_B, places_B, 0)

    def _goals(self, batch: Any, steps_BH: Tensor, index: int) -> tuple[Tensor, Tensor]:
        """Goals by hindsight (Andrychowicz et al. 2017, section 3.3): what was reached later, or anywhere at all."""
        shape = tuple(steps_BH.shape)
        if not self.spec.has_goals:
            return torch.zeros(*shape, 0), torch.full(shape, -1)
        rng = np.random.Generator(np.random.Philox([self.seed, index]))
        episodes_BH = np.broadcast_to(batch.episodes.numpy()[:, None], shape)
        now_BH = batch.steps.numpy()[:, None] + steps_BH.numpy()
        left_BH = self.view.lengths[episodes_BH] - now_BH
        # Half of the later goals are near (geometric, as far ahead as the discount looks), half uniform to the end.
        near_BH = rng.geometric(max(1.0 - self.spec.value.discount, 1e-6), shape)
        uniform_BH = 1 + np.floor(rng.random(shape) * np.maximum(left_BH, 1)).astype(np.int64)
        ahead_BH = np.minimum(np.where(rng.random(shape) < 0.5, near_BH, uniform_BH), left_BH)
        in_future_BH = rng.random(shape) < self.spec.value.future_goals
        other_BH = rng.integers(self.view.num_episodes, size=shape)
        other_step_BH = np.floor(rng.random(shape) * (self.view.lengths[other_BH] + 1)).astype(np.int64)
        goal_episode_BH = np.where(in_future_BH, episodes_BH, other_BH)
        goal_step_BH = np.where(in_future_BH, now_BH + ahead_BH, other_step_BH)
        rows_BH = self.view.first_frames[goal_episode_BH] + goal_step_BH
        frames = self.view.take(
            self.spec.data.state_field, self.view.store_ids[goal_episode_BH].ravel(), rows_BH.reshape(-1, 1)
        ).reshape(*shape, -1)
        goals_BHG = torch.from_numpy(frames[..., list(self.spec.data.goal_dimensions)].astype(np.float32))
        return goals_BHG, torch.from_numpy(np.where(in_future_BH, ahead_BH, -1))
