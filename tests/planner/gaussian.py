"""Trajectories of a known linear-Gaussian process, and the denoiser that is exact for them.

Legend: P samples, H planned states (of one entry), N = H as one vector.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class GaussianProcess:
    """A plan [H, 1] is a vector with this mean [H] and covariance [H, H]."""

    mean_H: Tensor
    covariance_HH: Tensor

    @classmethod
    def autoregression(
        cls, horizon: int, decay: float = 0.9, noise: float = 0.5, drift: float = 0.3
    ) -> GaussianProcess:
        """x[0] ~ N(1, 1), x[t + 1] = decay * x[t] + drift + noise * N(0, 1)."""
        mean, covariance = torch.zeros(horizon, dtype=torch.float64), torch.zeros(horizon, horizon, dtype=torch.float64)
        mean[0], covariance[0, 0] = 1.0, 1.0
        for t in range(1, horizon):
            mean[t] = decay * mean[t - 1] + drift
            covariance[t, :t] = covariance[:t, t] = decay * covariance[t - 1, :t]
            covariance[t, t] = decay**2 * covariance[t - 1, t - 1] + noise**2
        return cls(mean, covariance)

    def given_first(self, value: float) -> GaussianProcess:
        """The distribution of all states when the first is known (with a covariance of 0 for it)."""
        gain_H = self.covariance_HH[:, 0] / self.covariance_HH[0, 0]
        mean_H = self.mean_H + gain_H * (value - self.mean_H[0])
        return GaussianProcess(mean_H, self.covariance_HH - torch.outer(gain_H, self.covariance_HH[0]))

    def clean(self, noisy_PH: Tensor, kept: Tensor) -> Tensor:
        """E[clean | noisy] at a level that keeps `kept` of the signal's variance: exact (Bayes' rule for Gaussians)."""
        return self.mean_H + (noisy_PH.double() - kept.sqrt() * self.mean_H) @ self.gain(kept).T

    def gain(self, kept: Tensor) -> Tensor:
        """d E[clean | noisy] / d noisy: [H, H]."""
        noisy_HH = kept * self.covariance_HH + (1 - kept) * torch.eye(len(self.mean_H), dtype=torch.float64)
        return kept.sqrt() * torch.linalg.solve(noisy_HH, self.covariance_HH).T

    def denoiser(self, scheduler: Any) -> Any:
        """What `sample_plans` calls, for plans [P, H, 1]; predicts the clean sample."""

        def denoise(plans_PHX: Tensor, level_1: Tensor, known_PH: Tensor) -> Tensor:
            kept = scheduler.alphas_cumprod.double()[int(level_1)]
            return self.clean(plans_PHX.squeeze(-1), kept).unsqueeze(-1)

        return denoise
