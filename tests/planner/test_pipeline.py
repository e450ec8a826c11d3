"""`ValueGuidedRLPipeline`: each defect of the pipeline it takes its name from, and folders of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UNet1DModel

from qseq import ValueGuidedRLPipeline
from qseq.errors import RequestError
from qseq.planner import Normaliser
from qseq.planner.pipeline_parts import PlannerParts
from tests.planner.worlds import JOINT, policy_of, walks

STATE_SIZE, ACTION_SIZE = 4, 2
OBS = np.array([0.3, -0.2, 0.1, 5.0], np.float32)


def unet(**options: Any) -> UNet1DModel:
    settings: dict[str, Any] = {
        "in_channels": 6, "out_channels": 6, "time_embedding_type": "positional", "use_timestep_embedding": True,
        "flip_sin_to_cos": False, "freq_shift": 1, "down_block_types": ("DownResnetBlock1D",) * 2,
        "mid_block_type": "MidResTemporalBlock1D", "up_block_types": ("UpResnetBlock1D",),
        "out_block_type": "OutConv1DBlock", "block_out_channels": (8, 16), "act_fn": "mish", "norm_num_groups": 8,
    }  # fmt: skip
    return UNet1DModel(**{**settings, **options})


def value_function() -> UNet1DModel:
    """As diffusers builds them: made for one horizon, here 8."""
    return unet(
        out_channels=6, up_block_types=(), mid_block_type="ValueFunctionMidBlock1D", out_block_type="ValueFunction",
        down_block_types=("DownResnetBlock1D",), block_out_channels=(32,), downsample_each_block=True,
    )  # fmt: skip


def normalisers() -> tuple[Normaliser, Normaliser]:
    states = Normaliser(torch.tensor([0.0, 1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3.0, 4.0]))
    return states, Normaliser(torch.tensor([0.0, 10.0]), torch.tensor([1.0, 5.0]))


def pipeline() -> ValueGuidedRLPipeline:
    torch.manual_seed(0)
    scheduler = DDPMScheduler(num_train_timesteps=6, beta_schedule="squaredcos_cap_v2", clip_sample=False)
    states, actions = normalisers()
    return ValueGuidedRLPipeline(value_function(), unet(), scheduler, states=states, actions=actions)


def trained(tmp_path: Path) -> ValueGuidedRLPipeline:
    policy = policy_of(walks(tmp_path / "data"), *JOINT)
    return ValueGuidedRLPipeline.of(PlannerParts(policy.network, policy.spec))


def noise(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


HORIZON = 8


@pytest.mark.parametrize("n_guide_steps", [0, 2])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_no_guidance_and_one_candidate(n_guide_steps: int, batch_size: int) -> None:
    """The known pipeline crashed on both."""
    action = pipeline()(OBS, batch_size, HORIZON, n_guide_steps, generator=noise())
    assert action.shape == (ACTION_SIZE,)
    assert np.isfinite(action).all()


@pytest.mark.parametrize("horizon", [1, 5, 32, 128])
def test_any_horizon_with_networks_of_ours(tmp_path: Path, horizon: int) -> None:
    assert trained(tmp_path)(OBS, 3, horizon, 1, generator=noise()).shape == (ACTION_SIZE,)


def test_a_horizon_that_a_network_cannot_take_is_named_with_the_nearest() -> None:
    with pytest.raises(RequestError, match=r"horizon: found 7, expected a multiple of 2 .* nearest is 8"):
        pipeline()(OBS, 3, 7)
    with pytest.raises(RequestError, match=r"planning_horizon: found 128, which the value function .* nearest .* is 8"):
        pipeline()(OBS, 3, 128)
    assert pipeline()(OBS, 1, 128, 0).shape == (ACTION_SIZE,), "without values any horizon of the U-Net will do"


def test_a_generator_and_a_number_of_steps(tmp_path: Path) -> None:
    made = trained(tmp_path)
    first, again = (made(OBS, 4, 8, num_inference_steps=3, generator=noise(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, made(OBS, 4, 8, num_inference_steps=3, generator=noise(2)))
    with pytest.raises(RequestError, match="steps: found 7, expected 1 to 6"):
        pipeline()(OBS, 4, HORIZON, num_inference_steps=7)


def test_the_best_final_plan_is_taken() -> None:
    """Ranked by plans as they are at the end: here the value is the action that is returned."""
    made = pipeline()
    made.parts.value = lambda plans, level: plans[:, 0, 0]  # type: ignore[method-assign]
    drawn: list[torch.Tensor] = []
    first_actions = made.parts.first_actions
    rank = made._best

    def best(plans: torch.Tensor, environments: int, candidates: int) -> torch.Tensor:
        drawn.append(first_actions(plans))
        return rank(plans, environments, candidates)

    made._best = best  # type: ignore[method-assign]
    action = made(OBS, 16, HORIZON, 2, scale=0.5, generator=noise())
    assert action[0] == pytest.approx(drawn[0][:, 0].max().item())


def test_every_dimension_has_its_own_statistics() -> None:
    """A network that gives back what it sees, at the last level, shows what it is shown."""
    made = pipeline()
    seen: list[torch.Tensor] = []
    denoise = made.parts.denoiser.forward

    def watch(plans, levels, known=None, inside=None):
        seen.append(plans)
        return denoise(plans, levels, known, inside)

    made.parts.denoiser.forward = watch  # type: ignore[method-assign]
    made(OBS, 2, HORIZON, 0, generator=noise())
    expected = [(0.3 - 0) / 1, (-0.2 - 1) / 2, (0.1 - 2) / 3, (5.0 - 3) / 4]
    for plans in seen:
        assert plans[0, 0, ACTION_SIZE:].tolist() == pytest.approx(expected, rel=1e-5)


def test_the_action_has_no_gradient_and_leaves_none() -> None:
    made = pipeline()
    assert isinstance(made(OBS, 3, HORIZON, 2, generator=noise()), np.ndarray)
    parts: Any = made.parts
    assert all(
        p.grad is None and not p.requires_grad for p in (*parts.unet.parameters(), *parts.value_function.parameters())
    )


def test_a_batch_of_observations() -> None:
    assert pipeline()(np.stack([OBS, OBS, OBS]), 4, HORIZON, 2, generator=noise()).shape == (3, ACTION_SIZE)


def test_saved_and_loaded_without_an_environment(tmp_path: Path) -> None:
    for name, made in (("diffusers", pipeline()), ("ours", trained(tmp_path))):
        made.save_pretrained(tmp_path / name)
        loaded = ValueGuidedRLPipeline.from_pretrained(tmp_path / name)
        one, other = (each(OBS, 4, HORIZON, 2, generator=noise()) for each in (made, loaded))
        np.testing.assert_array_equal(one, other)


def test_a_folder_of_diffusers(tmp_path: Path) -> None:
    """What diffusers' own save_pretrained wrote: no statistics, so they are asked for."""
    torch.manual_seed(0)
    unet().save_pretrained(tmp_path / "unet")
    value_function().save_pretrained(tmp_path / "value_function")
    DDPMScheduler(num_train_timesteps=5).save_pretrained(tmp_path / "scheduler")
    states, actions = normalisers()
    loaded = ValueGuidedRLPipeline.from_pretrained(tmp_path, states=states, actions=actions)
    assert loaded(OBS, 3, HORIZON, generator=noise()).shape == (ACTION_SIZE,)
    with pytest.raises(RequestError, match=r"found no normalisers.safetensors"):
        ValueGuidedRLPipeline.from_pretrained(tmp_path)


def test_observations_that_are_wrong() -> None:
    with pytest.raises(RequestError, match=r"obs: found shape \[3\], expected \[4\]"):
        pipeline()(OBS[:3], 2, HORIZON)
    with pytest.raises(RequestError, match="not finite"):
        pipeline()(OBS * np.nan, 2, HORIZON)
    with pytest.raises(RequestError, match="batch_size=0"):
        pipeline()(OBS, 0, HORIZON)
    networks, (states, _) = (value_function(), unet()), normalisers()
    with pytest.raises(RequestError, match="6 channels, expected 5"):
        ValueGuidedRLPipeline(*networks, DDPMScheduler(), states=states, actions=Normaliser.identity(1))
