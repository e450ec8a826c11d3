"""Levels of noise, by the schedulers of diffusers, and the steps from one to the next.

Legend: T levels of noise, N of them visited.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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


@dataclass(frozen=True)
class DenoisingStep:
    """From one level to the next: `of_clean * clean + of_noisy * noisy + variance ** 0.5 * noise`, if it adds noise.

    Attributes:
        level: of noise, before the step.
        kept: share of the signal's variance at that level.
        of_clean, of_noisy: of the clean plan that is predicted, and of the noisy one.
        variance: of the next plan given the clean one (Ho et al. 2020, equation 7), whether noise is added or not.
    """

    level: int
    kept: float
    of_clean: float
    of_noisy: float
    variance: float


def denoising_steps(scheduler: Any) -> list[DenoisingStep]:
    """The steps that `set_steps` chose, between levels that may lie far apart.

    DDPM (Ho et al. 2020, equation 7) and DDIM without noise (Song et al. 2021, equation 12). They are worked out here
    for the levels that are really visited: `DDIMScheduler.step` takes these to be a fixed number apart, which with 60
    steps for 100 levels goes half as far each time and ends in noise.
    """
    levels = [int(level) for level in scheduler.timesteps]
    kept_T = scheduler.alphas_cumprod.double()
    ends = [*(float(kept_T[level]) for level in levels), 1.0]
    steps = []
    for level, now, after in zip(levels, ends, ends[1:], strict=False):
        variance = (1 - after) / (1 - now) * (1 - now / after)
        if adds_noise(scheduler):
            of_clean = after**0.5 * (1 - now / after) / (1 - now)
            of_noisy = (now / after) ** 0.5 * (1 - after) / (1 - now)
        else:
            of_noisy = ((1 - after) / (1 - now)) ** 0.5
            of_clean = after**0.5 - of_noisy * now**0.5
        steps.append(DenoisingStep(level, now, of_clean, of_noisy, variance))
    return steps


def adds_noise(scheduler: Any) -> bool:
    """Whether its steps draw fresh noise (DDPM) or not (DDIM)."""
    return type(scheduler).__name__ == "DDPMScheduler"


def predicted_clean(scheduler: Any, step: DenoisingStep, predicted: Tensor, noisy: Tensor) -> Tensor:
    """The clean plan, whatever it is that the network predicts: sample, epsilon or v_prediction."""
    kept, settings = step.kept, scheduler.config
    if settings.prediction_type == "epsilon":
        predicted = (noisy - (1 - kept) ** 0.5 * predicted) / kept**0.5
    elif settings.prediction_type == "v_prediction":  # Salimans and Ho 2022, appendix D
        predicted = kept**0.5 * noisy - (1 - kept) ** 0.5 * predicted
    if settings.clip_sample:
        predicted = predicted.clamp(-settings.clip_sample_range, settings.clip_sample_range)
    return predicted


def check_scheduler(scheduler: Any) -> None:
    """Raise RequestError for a scheduler that does what is not done here."""
    settings = scheduler.config
    for name, expected in (
        ("prediction_type", ("sample", "epsilon", "v_prediction")),
        ("thresholding", (False,)),
        ("variance_type", ("fixed_small", "fixed_small_log")),
        ("rescale_betas_zero_snr", (False,)),
    ):
        found = settings.get(name, expected[0])
        if found not in expected:
            raise RequestError(f"scheduler: found {name}={found}, expected {' or '.join(map(str, expected))}")


def add_noise(scheduler: Any, clean: Tensor, noise: Tensor, levels_B: Tensor) -> Tensor:
    """Clean plans [B, ...] at their levels of noise (Ho et al. 2020, equation 4)."""
    noisy: Tensor = scheduler.add_noise(clean, noise, levels_B)
    return noisy
