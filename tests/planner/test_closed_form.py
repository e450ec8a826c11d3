"""The sampler against closed forms: where plans are Gaussian, everything about it is known exactly.

Legend: P plans, H planned states of one entry.
"""

from __future__ import annotations

import pytest
import torch

from qseq.errors import RequestError
from qseq.planner.config import DiffusionConfig
from qseq.planner.diffusion import check_scheduler, denoising_steps, make_scheduler, set_steps
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


def linear_map(process: GaussianProcess, sampler: str, steps: int) -> GaussianProcess:
    """The distribution that a sampler's steps give: here each is a known linear map (and noise), whatever their number.

    DDIM: Song et al. 2021, equation 12. DDPM: Ho et al. 2020, equations 6 and 7.
    """
    scheduler = make_scheduler(CONFIG, sampler)
    set_steps(scheduler, steps)
    kept = scheduler.alphas_cumprod.double()
    mean_H = torch.zeros(HORIZON, dtype=torch.float64)
    covariance_HH = eye_HH = torch.eye(HORIZON, dtype=torch.float64)
    levels = scheduler.timesteps.tolist()
    for level, after in zip(levels, [*levels[1:], None], strict=True):
        now, then = kept[level], torch.tensor(1.0).double() if after is None else kept[after]
        gain_HH = process.gain(now)
        constant_H = process.mean_H - gain_HH @ (now.sqrt() * process.mean_H)
        if sampler == "ddim":
            of_noisy, noise = ((1 - then) / (1 - now)).sqrt(), torch.tensor(0.0)
            of_clean = then.sqrt() - of_noisy * now.sqrt()
        else:
            of_noisy = (now / then).sqrt() * (1 - then) / (1 - now)
            of_clean = then.sqrt() * (1 - now / then) / (1 - now)
            noise = (1 - then) / (1 - now) * (1 - now / then)
        step_HH = of_clean * gain_HH + of_noisy * eye_HH
        mean_H = step_HH @ mean_H + of_clean * constant_H
        covariance_HH = step_HH @ covariance_HH @ step_HH.T + noise * eye_HH
    return GaussianProcess(mean_H, covariance_HH)


def assert_same(found: GaussianProcess, expected: GaussianProcess, share: float) -> None:
    """Mean and covariance differ by at most a share of the deviations."""
    deviation_H = expected.covariance_HH.diagonal().sqrt()
    assert ((found.mean_H - expected.mean_H).abs() <= share * deviation_H + 1e-6).all()
    scale_HH = torch.outer(deviation_H, deviation_H)
    assert ((found.covariance_HH - expected.covariance_HH).abs() <= 1.25 * share * scale_HH + 1e-6).all()


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_many_steps_give_the_mean_and_covariance_of_the_process(sampler: str) -> None:
    """Only the finite steps are between them, and their error falls with their number."""
    process = GaussianProcess.autoregression(HORIZON)
    assert_same(linear_map(process, sampler, 400), process, 0.02)
    assert_same(linear_map(process, sampler, 200), process, 0.04)


@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 1), ("ddim", 3), ("ddim", 10), ("ddpm", 3), ("ddpm", 40)])
def test_samples_have_the_mean_and_covariance_of_their_linear_maps(sampler: str, steps: int) -> None:
    """Any number of steps is exactly known; four standard errors of 20 000 samples."""
    process = GaussianProcess.autoregression(HORIZON)
    drawn_PH = draw(process, sampler, steps)
    found = GaussianProcess(drawn_PH.mean(0), drawn_PH.T.cov())
    assert_same(found, linear_map(process, sampler, steps), 0.03)


def test_a_known_start_gives_the_conditional_distribution() -> None:
    """With the denoiser of the conditional distribution, as a network that is told what is known learns it."""
    process = GaussianProcess.autoregression(HORIZON).given_first(3.0)
    known = Known.nothing((PLANS, HORIZON, 1)).with_entries(0, slice(0, 1), torch.tensor([[3.0]]))
    drawn_PH = draw(process, "ddim", 100, known=known)
    assert (drawn_PH[:, 0] == 3.0).all()
    deviation = process.covariance_HH.diagonal().sqrt()
    assert ((drawn_PH.mean(0) - process.mean_H).abs() <= 0.04 * deviation + 1e-12).all()
    assert ((drawn_PH.std(0) - deviation).abs() <= 0.03 * deviation + 1e-12).all()


@pytest.mark.parametrize("pushes", [1, 2])
def test_a_linear_value_moves_the_mean_by_the_analytic_amount(pushes: int) -> None:
    """Guidance draws from p(x) exp(scale * w.x): of a Gaussian this moves the mean by scale * covariance @ w."""
    process = GaussianProcess.autoregression(HORIZON)
    slope_H = torch.tensor([0.0, 0.3, 0.0, -0.2, 0.0, 0.5], dtype=torch.float64)
    scheduler = make_scheduler(CONFIG, "ddpm")

    def value(plans_PH1, level_1):
        # The noise-aware value is that of the clean plan to be expected.
        kept = scheduler.alphas_cumprod.double()[int(level_1)]
        return process.clean(plans_PH1.squeeze(-1), kept) @ slope_H

    scale = 0.5
    guidance = Guidance(value=value, scale=scale / pushes, pushes=pushes, unguided=0)
    # All is linear: with the same noise in both the samples cancel, and what is left is the error of 400 finite steps.
    plain_PH = draw(process, "ddpm", 400, plans=10)
    guided_PH = draw(process, "ddpm", 400, plans=10, guidance=guidance)
    shift_H = scale * process.covariance_HH @ slope_H
    assert ((guided_PH - plain_PH - shift_H).abs() < 0.04 * shift_H.abs().max()).all()


def test_variances_match_those_of_the_scheduler() -> None:
    """Hand-worked for one step, diffusers' own for consecutive levels (the known pipeline used exp(variance / 2))."""
    scheduler = make_scheduler(CONFIG, "ddpm")
    set_steps(scheduler, 400)
    steps = denoising_steps(scheduler)
    for number in (0, 100, 398):
        assert steps[number].variance == pytest.approx(float(scheduler._get_variance(steps[number].level)), rel=1e-3)
    assert steps[-1].variance == 0.0, "the last step has no noise left"
    set_steps(scheduler, 2)
    kept = scheduler.alphas_cumprod.double()[scheduler.timesteps]
    expected = (1 - kept[1]) / (1 - kept[0]) * (1 - kept[0] / kept[1])
    assert denoising_steps(scheduler)[0].variance == pytest.approx(float(expected))


@pytest.mark.parametrize("prediction", ["sample", "epsilon", "v_prediction"])
@pytest.mark.parametrize(("sampler", "steps"), [("ddim", 10), ("ddpm", 10), ("ddpm", 7)])
@pytest.mark.parametrize("clip", [False, True])
def test_steps_are_those_of_the_scheduler(sampler, steps: int, prediction: str, clip: bool) -> None:
    """As diffusers takes them, where its own are right (the noise of a clipped plan is found anew)."""
    made = make_scheduler(DiffusionConfig(noise_steps=100), sampler)
    scheduler = type(made).from_config(made.config, prediction_type=prediction, clip_sample=clip)
    set_steps(scheduler, steps)
    known = Known.nothing((5, 4, 1))

    def denoise(plans_PHX, level_1, known_PH):
        return (plans_PHX + 0.01 * level_1).tanh()

    found = sample_plans(denoise, scheduler, known, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    plans = torch.randn(5, 4, 1, generator=generator)
    anew = {"use_clipped_model_output": True} if sampler == "ddim" else {}
    for level in scheduler.timesteps:
        prediction_PHX = denoise(plans, level, None)
        plans = scheduler.step(prediction_PHX, int(level), plans, generator=generator, **anew).prev_sample
    torch.testing.assert_close(found, plans, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
@pytest.mark.parametrize("steps", [1, 7, 30, 60, 99, 100])
def test_any_number_of_steps_ends_without_noise(sampler: str, steps: int) -> None:
    """`DDIMScheduler.step` alone would leave noise where the steps do not divide the levels."""
    scheduler = make_scheduler(DiffusionConfig(noise_steps=100), sampler)
    set_steps(scheduler, steps)
    found = sample_plans(lambda plans, level, known: torch.full_like(plans, 3.0), scheduler, Known.nothing((9, 2, 1)))
    torch.testing.assert_close(found, torch.full((9, 2, 1), 3.0), rtol=1e-5, atol=1e-5)


def test_a_scheduler_that_does_something_else_is_refused() -> None:
    made = make_scheduler(CONFIG, "ddpm")
    for name, value in (("thresholding", True), ("variance_type", "fixed_large"), ("prediction_type", "flow")):
        with pytest.raises(RequestError, match=f"scheduler: found {name}={value}, expected"):
            check_scheduler(type(made).from_config(made.config, **{name: value}))


def test_one_push_is_gradient_times_variance_times_scale() -> None:
    guidance = Guidance(value=lambda x, _: 3.0 * x.sum((1, 2)), scale=0.5, pushes=2, unguided=0)
    known = Known.nothing((2, 3, 1)).with_entries(0, slice(0, 1), torch.tensor([[7.0]]))
    pushed = guidance.push(torch.zeros(2, 3, 1), torch.tensor([5]), 0.1, known)
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
