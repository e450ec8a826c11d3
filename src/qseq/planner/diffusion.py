"""Levels of noise, by the schedulers of diffusers.

Legend: T levels of noise.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from qseq.errors import RequestError
from qseq.planner.config import DiffusionConfig


def make_scheduler(config: DiffusionConfig, sampler: Literal["ddim", "ddpm"] = "ddpm") -> Any:
    """The scheduler of a configuration: `DDPMScheduler` (Ho et al. 2020) or `DDIMScheduler` (Song et al. 2021)."""
    import diffusers

    library: Any = diffusers  # untyped

    settings = {
        "num_train_timesteps": config.noise_steps,
        "beta_schedule": config.noise_schedule,
        "prediction_type": config.prediction,
        "clip_sample": False,
        # From pure noise on, also with few steps (Lin et al. 2024, section 3.3).
        "timestep_spacing": "trailing",
    }
    return library.DDIMScheduler(**settings) if sampler == "ddim" else library.DDPMScheduler(**settings)


def set_steps(scheduler: Any, steps: int) -> None:
    """Choose the levels that `steps` denoising steps visit.

    Raises:
        RequestError: more steps than there are levels of noise.
    """
    levels = int(scheduler.config.num_train_timesteps)
    if not 1 <= steps <= levels:
        raise RequestError(f"steps: found {steps}, expected 1 to {levels}, the levels of noise in training")
    scheduler.set_timesteps(steps)


def posterior_variances(scheduler: Any) -> Tensor:
    """Variance of each step that `set_steps` chose, given the clean plan (Ho et al. 2020, equation 7): [steps].

    It is that of the step really taken, between levels that may lie far apart.
    """
    levels = [int(level) for level in scheduler.timesteps]
    kept_T = scheduler.alphas_cumprod.double()
    now = kept_T[levels]
    after = torch.cat([kept_T[levels[1:]], torch.ones(1, dtype=kept_T.dtype)])
    variances: Tensor = ((1 - after) / (1 - now) * (1 - now / after)).float()
    return variances


def add_noise(scheduler: Any, clean: Tensor, noise: Tensor, levels_B: Tensor) -> Tensor:
    """Clean plans [B, ...] at their levels of noise (Ho et al. 2020, equation 4)."""
    noisy: Tensor = scheduler.add_noise(clean, noise, levels_B)
    return noisy
