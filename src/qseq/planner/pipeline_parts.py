"""What a planning pipeline is made of: a planner that was trained here, or networks of diffusers.

Legend: P plans, H planned states, X entries of one planned state, S of a state, A of an action.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qseq.errors import DataError, RequestError
from qseq.planner.denoisers import Denoiser, UNetDenoiser
from qseq.planner.diffusion import check_scheduler, make_scheduler
from qseq.planner.normalisers import Normaliser
from qseq.planner.policy import DiffuserPolicy, read_planner, write_planner
from qseq.planner.spec import PlannerNetwork, PlannerSpec
from qseq.policies.locate import DESCRIPTION, WEIGHTS
from qseq.training.weights import load_tensors, save_tensors, tensors_of

NORMALISERS = "normalisers.safetensors"
_LONGEST_HORIZON = 1024


class PipelineParts(ABC):
    """Denoiser, value, scheduler and normalisers, wherever they come from.

    Attributes:
        states, actions: the normalisers.
        scheduler: one of diffusers'.
    """

    denoiser: Denoiser
    scheduler: Any
    states: Normaliser
    actions: Normaliser

    @property
    @abstractmethod
    def plan_size(self) -> int:
        """X: the state's entries come last."""

    @abstractmethod
    def value(self, plans_PHX: Tensor, level_1: Tensor) -> Tensor:
        """Returns of noisy plans [P]; differentiable."""

    @abstractmethod
    def first_actions(self, plans_PHX: Tensor) -> Tensor:
        """The action that each plan begins with, in the data's units: [P, A]."""

    def require_horizon(self, horizon: int, *, valued: bool) -> None:
        """Raise RequestError, naming the nearest that will do, for a horizon that a network cannot take."""
        self.denoiser.require_horizon(horizon)

    @abstractmethod
    def save(self, folder: Path) -> None:
        """Write what `load_parts` reads."""


class PlannerParts(PipelineParts):
    """A planner that `qseq train --algo diffuser` made."""

    def __init__(self, network: PlannerNetwork, spec: PlannerSpec) -> None:
        if spec.has_goals:
            raise RequestError(
                f"pipeline: found a planner for goals (data.goal_field={spec.data.goal_field}), expected one for "
                "return: use DiffuserPolicy, which is told the goal"
            )
        self.network, self.spec = network.eval().requires_grad_(False), spec
        self.denoiser, self.states, self.actions = network.denoiser, network.states, network.actions
        self.scheduler = make_scheduler(spec.diffusion, spec.planning.sampler)

    @property
    def plan_size(self) -> int:
        return self.spec.plan_size

    def value(self, plans_PHX: Tensor, level_1: Tensor) -> Tensor:
        # Of clean plans the critic knows most; it is also all there is of a planner trained without a guide.
        clean = self.network.critic is not None and (self.network.guide is None or int(level_1) == 0)
        judge = self.network.critic if clean else self.network.guide
        assert judge is not None
        values_P: Tensor = judge(plans_PHX, level_1)
        return values_P

    def first_actions(self, plans_PHX: Tensor) -> Tensor:
        if self.network.inverse is None:
            return self.actions.denormalise(plans_PHX[:, 0, : self.spec.action_size])
        later = min(1, plans_PHX.shape[1] - 1)
        return self.actions.denormalise(self.network.inverse(plans_PHX[:, 0], plans_PHX[:, later]))

    def save(self, folder: Path) -> None:
        save_tensors(tensors_of(self.network), folder / WEIGHTS)
        write_planner(DiffuserPolicy.kind, self.spec, folder)


class DiffusersParts(PipelineParts):
    """Networks of diffusers: a `UNet1DModel` over [action, state], and another whose output is a return."""

    def __init__(
        self, unet: nn.Module, value_function: nn.Module, scheduler: Any, states: Normaliser, actions: Normaliser
    ) -> None:
        self.unet: Any = unet.eval().requires_grad_(False)
        self.value_function: Any = value_function.eval().requires_grad_(False)
        self.denoiser = unet_denoiser = UNetDenoiser(self.unet)
        self._multiple = unet_denoiser.multiple
        check_scheduler(scheduler)
        self.scheduler, self.states, self.actions = scheduler, states, actions
        channels = int(unet_denoiser.settings.in_channels)
        if channels != states.size + actions.size:
            raise RequestError(
                f"pipeline: the U-Net has {channels} channels, expected {states.size + actions.size} for states of "
                f"{states.size} and actions of {actions.size} entries"
            )

    @property
    def plan_size(self) -> int:
        return self.states.size + self.actions.size

    def value(self, plans_PHX: Tensor, level_1: Tensor) -> Tensor:
        values_P: Tensor = self.value_function(
            plans_PHX.transpose(1, 2), level_1.expand(len(plans_PHX)), return_dict=False
        )[0].flatten()
        return values_P

    def first_actions(self, plans_PHX: Tensor) -> Tensor:
        return self.actions.denormalise(plans_PHX[:, 0, : self.actions.size])

    def require_horizon(self, horizon: int, *, valued: bool) -> None:
        super().require_horizon(horizon, valued=valued)
        if not valued or self._values_horizon(horizon):
            return
        near = (horizon + sign * away for away in range(1, _LONGEST_HORIZON) for sign in (-1, 1))
        nearest = next((other for other in near if 0 < other <= _LONGEST_HORIZON and self._values_horizon(other)), None)
        raise RequestError(
            f"planning_horizon: found {horizon}, which the value function cannot take; the nearest that it can "
            f"is {nearest}"
        )

    def _values_horizon(self, horizon: int) -> bool:
        try:
            self.value(torch.zeros(1, horizon, self.plan_size), torch.zeros(1, dtype=torch.int64))
        except (RuntimeError, ValueError):  # torch's way to say that shapes do not fit
            return False
        return horizon % self._multiple == 0

    def save(self, folder: Path) -> None:
        for name, part in (("unet", self.unet), ("value_function", self.value_function), ("scheduler", self.scheduler)):
            part.save_pretrained(folder / name)
        save_tensors({**_named("states", self.states), **_named("actions", self.actions)}, folder / NORMALISERS)


def load_parts(
    source: str | Path, states: Normaliser | None = None, actions: Normaliser | None = None
) -> PipelineParts:
    """The parts in a folder: a run or policy of ours, or diffusers' `unet`, `value_function` and `scheduler`.

    Args:
        states, actions: normalisers for a folder that holds none, as those of diffusers do.

    Raises:
        RequestError: there is neither, or there are no normalisers.
        DataError: a file is damaged.
    """
    folder = Path(source)
    if not (folder / "unet").is_dir() or (folder / DESCRIPTION).is_file():
        return PlannerParts(*read_planner(source, DiffuserPolicy.kind))
    import diffusers

    library: Any = diffusers  # untyped

    if (folder / NORMALISERS).is_file():
        stored = load_tensors(folder / NORMALISERS)
        states = states or _normaliser("states", stored, folder)
        actions = actions or _normaliser("actions", stored, folder)
    if states is None or actions is None:
        raise RequestError(
            f"{folder}: found no {NORMALISERS}, expected it there, or normalisers of states and actions as arguments: "
            "networks without the statistics of their data cannot act"
        )
    return DiffusersParts(
        library.UNet1DModel.from_pretrained(folder / "unet"),
        library.UNet1DModel.from_pretrained(folder / "value_function"),
        _load_scheduler(folder / "scheduler"),
        states,
        actions,
    )


def _load_scheduler(folder: Path) -> Any:
    import diffusers

    known = {"DDPMScheduler": diffusers.DDPMScheduler, "DDIMScheduler": diffusers.DDIMScheduler}
    name = diffusers.DDPMScheduler.load_config(folder)["_class_name"]
    if name not in known:
        raise DataError(f"{folder}: found a {name}, expected one of {', '.join(known)}")
    return known[name].from_pretrained(folder)


def _named(name: str, normaliser: Normaliser) -> dict[str, Tensor]:
    return {f"{name}.offset": normaliser.offset_D, f"{name}.scale": normaliser.scale_D}


def _normaliser(name: str, stored: dict[str, Tensor], folder: Path) -> Normaliser:
    try:
        return Normaliser(stored[f"{name}.offset"], stored[f"{name}.scale"])
    except KeyError as error:
        raise DataError(f"{folder / NORMALISERS}: found no {error}, expected the statistics of {name}") from error
