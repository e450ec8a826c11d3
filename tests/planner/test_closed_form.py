"""The sampler against closed forms: where plans are Gaussian, everything about it is known exactly.

Legend: P plans, H planned states of one entry.
"""

from __future__ import annotations

import pytest
import torch

from qseq.planner.config import DiffusionConfig
from qseq.planner.diffusion import make_scheduler, posterior_variances, set_steps
from qseq.planner.sampling import Guidance, Known, sample_plans
from tests.planner.gaussian import GaussianProcess

HORIZON, PLANS = 6, 20_000
CONFIG = DiffusionConfig(noise_steps=400, noise_schedule="squaredcos_cap_v2", prediction="sample")


def draw(process: GaussianProcess, sampler, steps: int, *, known=None, guidance=None, plans: int = PLANS):
    scheduler = make_scheduler(CONFIG, sampler)
    set_steps(scheduler, steps)
    known = known or Known.nothing((plans, HORIZON, 1))
    generator = torch.Generator().manual_seed(0)
    drawn_PH1 = sample_plans(process.denoiser(scheduler), scheduler, known, generator=generator, guidance=guidance)
    return drawn_PH1.squeeze(-1).double()


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 400), ("ddpm", 400)])
def test_mean_and_covariance_of_samples(sampler, steps: int) -> None:
    process = GaussianProcess.autoregression(HORIZON)
    drawn_PH = draw(process, sampler, steps)
    deviation = process.covariance_HH.diagonal().sqrt()
    # Four standard errors of 20 000 samples, and one percent for the 400 finite steps.
    assert ((drawn_PH.mean(0) - process.mean_H).abs() < 0.04 * deviation).all()
    scale_HH = torch.outer(deviation, deviation)
    assert ((drawn_PH.T.cov() - process.covariance_HH).abs() < 0.05 * scale_HH).all()


def test_a_known_start_gives_the_conditional_distribution() -> None:
    """With the denoiser of the conditional distribution, as a network that is told what is known learns it."""
    process = GaussianProcess.autoregression(HORIZON).given_first(3.0)
    known = Known.nothing((PLANS, HORIZON, 1)).with_entries(0, slice(0, 1), torch.tensor([[3.0]]))
    drawn_PH = draw(process, "ddim", 400, known=known)
    assert (drawn_PH[:, 0] == 3.0).all()
    deviation = process.covariance_HH.diagonal().sqrt()
    assert ((drawn_PH.mean(0) - process.mean_H).abs() <= 0.04 * deviation + 1e-12).all()
    assert ((drawn_PH.std(0) - deviation).abs() <= 0.03 * deviation + 1e-12).all()


@pytest.mark.parametrize("steps", [1, 3, 10])
def test_any_number_of_ddim_steps_is_the_product_of_its_linear_maps(steps: int) -> None:
    """Few steps are not exact, but each is a known linear map here (Song et al. 2021, equation 12)."""
    process = GaussianProcess.autoregression(HORIZON)
    scheduler = make_scheduler(CONFIG, "ddim")
    set_steps(scheduler, steps)
    kept = scheduler.alphas_cumprod.double()
    mean_H = torch.zeros(HORIZON, dtype=torch.float64)
    map_HH = torch.eye(HORIZON, dtype=torch.float64)
    levels = scheduler.timesteps.tolist()
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        now, then = kept[level], torch.tensor(1.0).double() if after is None else kept[after]
        gain_HH = process.gain(now)
        constant_H = process.mean_H - gain_HH @ (now.sqrt() * process.mean_H)
        noise_share = ((1 - then) / (1 - now)).sqrt()
        step_HH = then.sqrt() * gain_HH + noise_share * (torch.eye(HORIZON) - now.sqrt() * gain_HH)
        mean_H = step_HH @ mean_H + (then.sqrt() - noise_share * now.sqrt()) * constant_H
        map_HH = step_HH @ map_HH
    drawn_PH = draw(process, "ddim", steps)
    deviation = (map_HH @ map_HH.T).diagonal().sqrt()
    assert ((drawn_PH.mean(0) - mean_H).abs() < 0.03 * deviation + 1e-6).all()
    assert ((drawn_PH.std(0) - deviation).abs() < 0.03 * deviation + 1e-6).all()


@pytest.mark.parametrize(("sampler", "pushes"), [("ddpm", 1), ("ddpm", 2)])
def test_a_linear_value_moves_the_mean_by_the_analytic_amount(sampler, pushes: int) -> None:
    """Guidance draws from p(x) exp(scale * w.x): of a Gaussian this moves the mean by scale * covariance @ w."""
    process = GaussianProcess.autoregression(HORIZON)
    slope_H = torch.tensor([0.0, 0.3, 0.0, -0.2, 0.0, 0.5], dtype=torch.float64)
    scheduler = make_scheduler(CONFIG, sampler)

    def value(plans_PH1, level_1):
        # The noise-aware value is that of the clean plan to be expected.
        kept = scheduler.alphas_cumprod.double()[int(level_1)]
        return process.clean(plans_PH1.squeeze(-1), kept) @ slope_H

    scale = 0.5
    guidance = Guidance(value=value, scale=scale / pushes, pushes=pushes, unguided=0)
    plain_PH, guided_PH = draw(process, sampler, 400), draw(process, sampler, 400, guidance=guidance)
    shift_H = scale * process.covariance_HH @ slope_H
    # The same noise in both: sampling error nearly cancels, what is left is that of 400 finite steps.
    assert ((guided_PH.mean(0) - plain_PH.mean(0) - shift_H).abs() < 0.04 * shift_H.abs().max()).all()


def test_posterior_variances_match_those_of_the_scheduler() -> None:
    """Hand-worked for one step, diffusers' own for consecutive levels (the known pipeline used exp(variance / 2))."""
    scheduler = make_scheduler(CONFIG, "ddpm")
    set_steps(scheduler, 400)
    found = posterior_variances(scheduler)
    for number in (0, 100, 398):
        level = int(scheduler.timesteps[number])
        assert found[number].item() == pytest.approx(float(scheduler._get_variance(level)), rel=1e-3)
    assert found[-1] == 0.0, "the last step has no noise left"
    set_steps(scheduler, 2)
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    expected = (1 - kept[1]) / (1 - kept[0]) * (1 - kept[0] / kept[1])
    assert posterior_variances(scheduler)[0].item() == pytest.approx(float(expected))


def test_one_push_is_gradient_times_variance_times_scale() -> None:
    guidance = Guidance(value=lambda x, _: 3.0 * x.sum((1, 2)), scale=0.5, pushes=2, unguided=0)
    known = Known.nothing((2, 3, 1)).with_entries(0, slice(0, 1), torch.tensor([[7.0]]))
    pushed = guidance.push(torch.zeros(2, 3, 1), torch.tensor([5]), torch.tensor(0.1), known)
    assert not pushed.requires_grad
    torch.testing.assert_close(pushed[0].flatten(), torch.tensor([7.0, 0.3, 0.3]))


def test_the_last_steps_are_not_guided() -> None:
    process = GaussianProcess.autoregression(HORIZON)
    seen: list[int] = []

    def value(plans_PH1, level_1):
        seen.append(int(level_1))
        return plans_PH1.sum((1, 2))

    draw(process, "ddim", 5, guidance=Guidance(value=value, scale=0.1, pushes=2, unguided=2), plans=3)
    scheduler = make_scheduler(CONFIG, "ddim")
    set_steps(scheduler, 5)
    assert seen == [level for level in scheduler.timesteps.tolist()[:3] for _ in range(2)]
