"""A planner as a policy: one plan an environment, followed for some steps, then made anew.

Legend: E environments, H planned states, S entries of a state, A of an action, G of a goal.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

import qseq
from qseq.configuration import checked
from qseq.errors import ConfigError, DataError, RequestError
from qseq.files import write_atomic
from qseq.observations import read_frames, read_instructions
from qseq.planner.config import PlanningConfig
from qseq.planner.planning import Planner
from qseq.planner.spec import PlannerNetwork, PlannerSpec
from qseq.policies import Observation, Policy, locate_policy, read_description
from qseq.policies.locate import DESCRIPTION, WEIGHTS
from qseq.training.weights import load_weights, save_tensors, tensors_of

AVERAGE = "target.safetensors"


@dataclass
class FollowedPlan:
    """The plan an environment follows.

    Attributes:
        states_HS, actions_HA: planned states, and actions if they are planned.
        normalised_HX: as the denoiser sees it.
        goal_G: what it was made for.
        age: environment steps since it was made.
    """

    states_HS: Tensor
    actions_HA: Tensor | None
    normalised_HX: Tensor
    goal_G: Tensor | None
    age: int = 0


class DiffuserPolicy(Policy):
    """Follows plans that diffusion drew and values chose.

    Args:
        network, spec: what was trained.
        seed: of the noise that plans are made of.
        options: fields of `PlanningConfig`, instead of those it was trained with.

    Raises:
        RequestError: options that there are not, or that the network was not trained for.
    """

    kind = "diffuser"

    def __init__(self, network: PlannerNetwork, spec: PlannerSpec, *, seed: int = 0, **options: Any) -> None:
        names = [option.name for option in fields(PlanningConfig)]
        unknown = sorted(set(options) - set(names))
        if unknown:
            raise RequestError(f"policy options: found '{unknown[0]}', expected some of seed, {', '.join(names)}")
        self.network = network.eval().requires_grad_(False)
        self.spec = spec
        self.planner = Planner(self.network, spec, checked(replace(spec.planning, **options)))
        self.plans: dict[int, FollowedPlan] = {}
        self._generator = torch.Generator(device=network.device)
        self._warned = False
        shape = tuple(spec.action_space["shape"])
        self._low, self._high = (
            torch.tensor(np.broadcast_to(np.asarray(spec.action_space[edge], np.float32), shape).copy())
            for edge in ("low", "high")
        )
        self.seed(seed)

    @property
    def observation_fields(self) -> dict[str, tuple[int, ...]]:
        return self.spec.fields

    @property
    def action_space(self) -> dict[str, Any]:
        return self.spec.action_space

    @property
    def takes_instructions(self) -> bool:
        return False

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    def reset(self, environment_ids: Sequence[int] | None = None) -> None:
        for environment in list(self.plans) if environment_ids is None else environment_ids:
            self.plans.pop(environment, None)

    def act(
        self,
        observation: Observation,
        instruction: str | Sequence[str] | None = None,
        *,
        environment_ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        frames, single = read_frames(observation, self.observation_fields)
        states_ES = self._read(frames, self.spec.data.state_field)
        goals_EG = self._read(frames, self.spec.data.goal_field) if self.spec.has_goals else None
        rows = len(states_ES)
        read_instructions(instruction, rows, default="", taken=False, needed=False)
        environments = list(range(rows)) if environment_ids is None else list(environment_ids)
        self._replan(environments, states_ES, goals_EG)
        actions = self._actions(environments, states_ES).cpu().numpy()
        for environment in environments:
            self.plans[environment].age += 1
        return actions[0] if single else actions

    def save_pretrained(self, folder: str | Path) -> None:
        Path(folder).mkdir(parents=True, exist_ok=True)
        save_tensors(tensors_of(self.network), Path(folder) / WEIGHTS)
        write_planner(self.kind, self.spec, Path(folder))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """See `Policy`. Of a checkpoint the moving average of the weights is taken."""
        network, spec = read_planner(source, cls.kind)
        return cls(network, spec, **options)

    def describe(self) -> dict[str, Any]:
        parameters = sum(p.numel() for p in self.network.parameters())
        return {
            "kind": self.kind,
            "parameters": parameters,
            **replace(self.spec, planning=self.planner.options).to_dict(),
        }

    def _read(self, frames: Mapping[str, np.ndarray], name: str) -> Tensor:
        values = torch.from_numpy(np.asarray(frames[name], dtype=np.float32)).to(self.network.device)
        if not values.isfinite().all():
            row, entry = (int(n) for n in (~values.isfinite()).nonzero()[0])
            raise RequestError(
                f"observation: field '{name}' holds {values[row, entry].item()} in entry {entry} of row {row}, "
                "expected finite values"
            )
        return values

    def _replan(self, environments: Sequence[int], states_ES: Tensor, goals_EG: Tensor | None) -> None:
        """New plans for those whose plan is old, or was made for another goal."""
        due = [
            row
            for row, name in enumerate(environments)
            if self._is_due(name, None if goals_EG is None else goals_EG[row])
        ]
        if not due:
            return
        self._warn_of_far_goals(goals_EG)
        # Each begins from its own last plan, whatever the others have: two kinds of plans are two batches.
        going_on = [row for row in due if self._continues(environments[row], goals_EG, row)]
        for rows in (going_on, [row for row in due if row not in going_on]):
            if rows:
                self._plan(rows, environments, states_ES, goals_EG, warm=rows is going_on)

    def _plan(
        self, rows: list[int], environments: Sequence[int], states_ES: Tensor, goals_EG: Tensor | None, *, warm: bool
    ) -> None:
        olds = [self.plans[environments[row]] for row in rows] if warm else []
        plans = self.planner.plan(
            states_ES[rows],
            None if goals_EG is None else goals_EG[rows],
            previous_EHX=torch.stack([plan.normalised_HX for plan in olds]) if warm else None,
            shift=[plan.age // self.spec.trajectory.stride for plan in olds] if warm else 0,
            generator=self._generator,
        )
        for number, row in enumerate(rows):
            self.plans[environments[row]] = FollowedPlan(
                states_HS=plans.states_EHS[number],
                actions_HA=None if plans.actions_EHA is None else plans.actions_EHA[number],
                normalised_HX=plans.normalised_EHX[number],
                goal_G=None if goals_EG is None else goals_EG[row].clone(),
            )

    def _continues(self, environment: int, goals_EG: Tensor | None, row: int) -> bool:
        """Whether the next plan is to begin from the last one: one for another goal leads elsewhere."""
        plan = self.plans.get(environment)
        if plan is None or not self.planner.options.warm_start:
            return False
        return goals_EG is None or plan.goal_G is None or torch.equal(plan.goal_G, goals_EG[row])

    def _is_due(self, environment: int, goal_G: Tensor | None) -> bool:
        plan = self.plans.get(environment)
        if plan is None:
            return True
        longest = max(1, (len(plan.states_HS) - 1) * self.spec.trajectory.stride)
        if plan.age >= min(self.planner.options.replan_every, longest):
            return True
        return plan.goal_G is not None and goal_G is not None and not torch.equal(plan.goal_G, goal_G)

    def _actions(self, environments: Sequence[int], states_ES: Tensor) -> Tensor:
        """[E, *action_shape], within the action space."""
        network, followed = self.network, [self.plans[environment] for environment in environments]
        with torch.no_grad():
            if network.inverse is None:
                chosen = [
                    plan.actions_HA[min(plan.age, len(plan.actions_HA) - 1)]
                    for plan in followed
                    if plan.actions_HA is not None
                ]
                actions_EA = torch.stack(chosen)
            else:
                ahead_ES = torch.stack([self._ahead(plan) for plan in followed])
                normalised = (network.states.normalise(states) for states in (states_ES, ahead_ES))
                actions_EA = network.actions.denormalise(network.inverse(*normalised))
        actions = actions_EA.reshape(-1, *self._low.shape)
        return actions.clamp(self._low.to(actions), self._high.to(actions))

    def _ahead(self, plan: FollowedPlan) -> Tensor:
        """Where the plan is one stride after now, in a straight line between its states: [S]."""
        place = min(plan.age / self.spec.trajectory.stride + 1.0, len(plan.states_HS) - 1.0)
        before = min(int(place), max(len(plan.states_HS) - 2, 0))
        after = min(before + 1, len(plan.states_HS) - 1)
        return torch.lerp(plan.states_HS[before], plan.states_HS[after], place - before)

    def _warn_of_far_goals(self, goals_EG: Tensor | None) -> None:
        if goals_EG is None or self._warned:
            return
        low, high = (torch.tensor(edge).to(goals_EG) for edge in (self.spec.goal_low, self.spec.goal_high))
        radius = self.spec.data.goal_radius
        far_E = ((goals_EG < low - radius) | (goals_EG > high + radius)).any(-1)
        if far_E.any():
            goal = [round(n, 3) for n in goals_EG[far_E][0].tolist()]
            warnings.warn(
                f"goal {goal} is outside of what the data reached ({[round(n, 3) for n in self.spec.goal_low]} to "
                f"{[round(n, 3) for n in self.spec.goal_high]}): plans to it are guesses",
                stacklevel=4,
            )
            self._warned = True


def write_planner(kind: str, spec: PlannerSpec, folder: Path) -> None:
    """Write `policy.json`: all a planner needs beside its weights, and the fields that its data must have."""
    head = {"kind": kind, "qseq": qseq.__version__, "fields": spec.fields}
    write_atomic(folder / DESCRIPTION, json.dumps({**head, **spec.to_dict()}, indent=1))


def read_planner(source: str | Path, kind: str) -> tuple[PlannerNetwork, PlannerSpec]:
    """Network and spec of a folder, a run or a Hub repository; of a checkpoint the moving average of the weights.

    Raises:
        RequestError: there is none, or it is of another kind.
        DataError: its files are damaged.
    """
    folder = locate_policy(source)
    description = read_description(folder)
    if description["kind"] != kind:
        raise RequestError(f"{folder}: found a policy of kind '{description['kind']}', expected '{kind}'")
    try:
        spec = PlannerSpec.from_dict(description)
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise DataError(f"{folder / DESCRIPTION}: does not describe a planner ({error})") from error
    network = PlannerNetwork(spec)
    average = folder / AVERAGE
    load_weights(network, average if average.is_file() else folder / WEIGHTS)
    return network, spec
