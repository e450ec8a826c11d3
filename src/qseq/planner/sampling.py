"""Plans out of noise: denoising with known states held in place, and with a push towards value.

Legend: C plans, H planned states, X entries of one planned state.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from qseq.planner.diffusion import adds_noise, denoising_steps, predicted_clean

Denoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy plans [C, H, X], level int64 [1], known states bool [C, H]) -> prediction [C, H, X]."""
Value = Callable[[Tensor, Tensor], Tensor]
"""(noisy plans [C, H, X], level int64 [1]) -> values [C]; differentiable."""


@dataclass(frozen=True)
class Known:
    """What of the plans is given: `values_CHX` where `mask_CHX` is True. Held after every denoising step."""

    values_CHX: Tensor
    mask_CHX: Tensor

    @classmethod
    def nothing(cls, shape: tuple[int, int, int], device: torch.device | str = "cpu") -> Known:
        """For plans [C, H, X] of which nothing is given yet."""
        return cls(torch.zeros(shape, device=device), torch.zeros(shape, dtype=torch.bool, device=device))

    def with_entries(self, step: int, entries: slice | list[int], values_CE: Tensor) -> Known:
        """Also the `entries` of planned state `step`, which may count from the end: values [C or 1, E]."""
        values_CHX, mask_CHX = self.values_CHX.clone(), self.mask_CHX.clone()
        values_CHX[:, step, entries] = values_CE.to(values_CHX)
        mask_CHX[:, step, entries] = True
        return Known(values_CHX, mask_CHX)

    @property
    def states(self) -> Tensor:
        """True for states of which anything is known, [C, H]."""
        return self.mask_CHX.any(-1)

    def hold(self, plans_CHX: Tensor) -> Tensor:
        """The plans with what is known put in its place."""
        return torch.where(self.mask_CHX, self.values_CHX, plans_CHX)


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """A push of noisy plans up the gradient of a value (Janner et al. 2022, algorithm 1).

    Args:
        value: of noisy plans.
        scale: of the push, times the posterior variance of the step: not its deviation, and not a power of e.
        pushes: before each denoising step.
        unguided: the last so many denoising steps are not pushed.
    """

    value: Value
    scale: float
    pushes: int = 2
    unguided: int = 2

    def push(self, plans_CHX: Tensor, level_1: Tensor, variance: float, known: Known) -> Tensor:
        """The plans after all pushes of one denoising step; without gradient history."""
        for _ in range(self.pushes):
            with torch.enable_grad():
                leaf_CHX = plans_CHX.detach().requires_grad_()
                (gradient_CHX,) = torch.autograd.grad(self.value(leaf_CHX, level_1).sum(), leaf_CHX)
            plans_CHX = known.hold(plans_CHX + self.scale * variance * gradient_CHX)
        return plans_CHX


def sample_plans(
    denoise: Denoise,
    scheduler: Any,
    known: Known,
    *,
    generator: torch.Generator | None = None,
    guidance: Guidance | None = None,
    start_CHX: Tensor | None = None,
    start_share: float = 1.0,
    temperature: float = 1.0,
    trace: list[Tensor] | None = None,
) -> Tensor:
    """Draw plans [C, H, X]; no gradient is attached to them.

    Args:
        denoise: the denoiser.
        scheduler: one of diffusers', with its levels chosen (`set_steps`).
        known: what is given of the plans; its shape is theirs.
        generator: of all noise.
        guidance: pushes towards value.
        start_CHX: plans to begin from instead of pure noise, such as the last ones ...
        start_share: ... with this share of the denoising steps still to do (SDEdit; Meng et al. 2022).
        temperature: scale of the first noise.
        trace: each denoising step's plans are added to it, the first noise included.
    """
    with torch.no_grad():
        shape, device = known.values_CHX.shape, known.values_CHX.device
        noise_CHX = temperature * torch.randn(shape, generator=generator, device=device)
        levels = scheduler.timesteps.to(device)
        steps = denoising_steps(scheduler)
        noisy_steps = adds_noise(scheduler)
        first = 0
        if start_CHX is not None:
            first = min(max(round((1.0 - start_share) * len(steps)), 0), len(steps) - 1)
            noise_CHX = scheduler.add_noise(start_CHX, noise_CHX, levels[first : first + 1])
        plans_CHX = known.hold(noise_CHX)
        known_CH = known.states
        if trace is not None:
            trace.append(plans_CHX.clone())
        for number, step in enumerate(steps[first:], start=first):
            level_1 = levels[number : number + 1]
            if guidance is not None and number < len(steps) - guidance.unguided:
                plans_CHX = guidance.push(plans_CHX, level_1, step.variance, known)
            predicted_CHX = denoise(plans_CHX, level_1, known_CH).to(plans_CHX.dtype)
            clean_CHX = predicted_clean(scheduler, step, predicted_CHX, plans_CHX)
            plans_CHX = step.of_clean * clean_CHX + step.of_noisy * plans_CHX
            if noisy_steps and step.variance > 0.0:
                fresh_CHX = torch.randn(shape, generator=generator, device=device)
                plans_CHX = plans_CHX + step.variance**0.5 * fresh_CHX
            plans_CHX = known.hold(plans_CHX)
            if trace is not None:
                trace.append(plans_CHX.clone())
        return plans_CHX.detach()
