"""What holds for every tower: shapes, gradients, conditions, independence of the batch, the contract of images."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from qseq.networks.vision import ConvTower, FiLM, MaxViT, VisionTower
from qseq.networks.vision.tower import AddPlace

B, C = 3, 6
Make = Callable[..., nn.Module]


def make_maxvit(**changes: object) -> MaxViT:
    torch.manual_seed(0)
    arguments: dict[str, object] = {
        "num_classes": 5,
        "dim": 8,
        "depth": (1, 2),
        "dim_head": 4,
        "window_size": 2,
        "dropout": 0.0,
    }
    return MaxViT(**(arguments | changes))  # type: ignore[arg-type]


def make_maxvit_group_norm(**changes: object) -> MaxViT:
    return make_maxvit(use_layernorm=False, **changes)


def make_conv(**changes: object) -> ConvTower:
    torch.manual_seed(0)
    return ConvTower(**({"dim": 8, "depth": (1, 1)} | changes))  # type: ignore[arg-type]


every_tower = pytest.mark.parametrize("make", [make_maxvit, make_maxvit_group_norm, make_conv])


def images_of(batch: int = B, height: int = 32, width: int = 16) -> torch.Tensor:
    return torch.randint(0, 256, (batch, 3, height, width), generator=torch.Generator().manual_seed(1)).byte()


def perturb_films(tower: nn.Module) -> None:
    for module in tower.modules():
        if isinstance(module, FiLM):
            nn.init.normal_(module.to_scale_shift.weight, std=0.5)


@every_tower
def test_the_map_is_as_large_as_announced(make: Make) -> None:
    tower = make(condition_dim=C)
    shared: VisionTower = tower  # type: ignore[assignment]
    map_BDhw = shared(images_of(), torch.randn(B, C), return_embeddings=True)
    assert map_BDhw.shape == (B, shared.out_dim, *shared.feature_size(32, 16))
    assert shared.out_dim == 16
    assert shared.condition_dim == C
    assert map_BDhw.isfinite().all()


@every_tower
def test_gradient_reaches_every_parameter(make: Make) -> None:
    tower = make(condition_dim=C)
    perturb_films(tower)
    for conditions in (torch.randn(B, C), None):  # the null condition learns from absent ones
        (tower(images_of(), conditions) ** 2).sum().backward()
    without = [name for name, p in tower.named_parameters() if p.grad is None or not (p.grad != 0).any()]
    assert without == []


@every_tower
def test_conditions_change_nothing_at_first_and_everything_later(make: Make) -> None:
    tower = make(condition_dim=C).eval()
    images, conditions = images_of(), torch.randn(B, C)
    plain = tower(images, conditions, return_embeddings=True)
    assert torch.equal(plain, tower(images, None, return_embeddings=True))
    unconditioned = make().eval()
    unconditioned.load_state_dict(tower.state_dict(), strict=False)
    assert torch.equal(plain, unconditioned(images, return_embeddings=True))

    perturb_films(tower)
    conditioned = tower(images, conditions, return_embeddings=True)
    assert not torch.allclose(conditioned, plain, atol=1e-2)
    changed = conditions.clone()
    changed[1] += 1
    difference_B = (tower(images, changed, return_embeddings=True) - conditioned).abs().amax((1, 2, 3))
    assert difference_B[1] > 1e-2
    assert difference_B[0] < 1e-5
    assert difference_B[2] < 1e-5
    null = tower.null_condition(None, batch=B)  # type: ignore[operator]
    torch.testing.assert_close(tower(images, None), tower(images, null))
    assert not torch.allclose(tower(images, None), tower(images, conditions), atol=1e-3)


@every_tower
def test_every_block_is_conditioned(make: Make) -> None:
    tower = make(condition_dim=C).eval()
    films = [module for module in tower.modules() if isinstance(module, FiLM)]
    assert len(films) == (3 if isinstance(tower, MaxViT) else 2)
    images, conditions = images_of(), torch.randn(B, C)
    before = tower(images, conditions)
    for film in films:
        nn.init.normal_(film.to_scale_shift.weight)
        assert not torch.allclose(tower(images, conditions), before, atol=1e-3)
        nn.init.zeros_(film.to_scale_shift.weight)


@every_tower
@pytest.mark.parametrize("training", [True, False])
def test_an_image_does_not_depend_on_the_others_of_its_batch(make: Make, training: bool) -> None:
    tower = make().train(training)
    images = images_of()
    together = tower(images)
    changed = images.clone()
    changed[1:] = 255 - changed[1:]
    torch.testing.assert_close(tower(changed)[0], together[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(tower(images[:1])[0], together[0], atol=1e-5, rtol=0)
    assert not torch.allclose(tower(changed)[1:], together[1:], atol=1e-3)


@every_tower
def test_bytes_are_the_same_as_scaled_floats_in_any_memory_layout(make: Make) -> None:
    tower = make().eval()
    images = images_of()
    expected = tower(images)
    torch.testing.assert_close(tower(images.float() / 255), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(tower(images.double() / 255), expected, atol=1e-5, rtol=0)
    channels_last = images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    torch.testing.assert_close(tower(channels_last), expected, atol=1e-5, rtol=0)
    assert not torch.allclose(tower(images.float()), expected, atol=1e-2)


@every_tower
def test_the_map_lies_in_channels_last_memory(make: Make) -> None:
    map_BDhw = make()(images_of(), return_embeddings=True)
    assert map_BDhw.is_contiguous(memory_format=torch.channels_last)


@every_tower
def test_images_are_not_written_to(make: Make) -> None:
    images = torch.rand(B, 3, 32, 16).contiguous(memory_format=torch.channels_last)
    copy = images.clone()
    make()(images)
    assert torch.equal(images, copy)


@every_tower
def test_runs_in_bfloat16(make: Make) -> None:
    tower = make(condition_dim=C).eval()
    perturb_films(tower)
    images, conditions = images_of(), torch.randn(B, C)
    expected = tower(images, conditions)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(tower(images, conditions).float(), expected, atol=0.2, rtol=0.1)
    torch.testing.assert_close(tower.bfloat16()(images, conditions).float(), expected, atol=0.2, rtol=0.1)


@every_tower
@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 32, 16), r"shape \(3, 32, 16\), expected \[batch, channels, height, width\]"),
        (torch.zeros(2, 32, 16, 3), "have 32 channels, expected 3"),
        (torch.zeros(2, 4, 32, 16), "have 4 channels, expected 3"),
        (torch.zeros(2, 3, 32, 16, dtype=torch.int64), r"torch.int64, expected uint8"),
        (torch.zeros(2, 3, 32, 18), "32 x 18 pixels: the width is 18, expected a multiple of"),
        (torch.zeros(2, 3, 30, 16), "30 x 16 pixels: the height is 30, expected a multiple of"),
        (torch.zeros(2, 3, 0, 16), "the height is 0"),
    ],
)
def test_images_that_do_not_fit_are_refused(make: Make, images: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()(images)


@every_tower
def test_conditions_that_do_not_fit_are_refused(make: Make) -> None:
    with pytest.raises(ValueError, match="without `condition_dim`"):
        make()(images_of(), torch.zeros(B, C))
    with pytest.raises(ValueError, match=r"shape \(3, 7\), expected \(3, 6\)"):
        make(condition_dim=C)(images_of(), torch.zeros(B, C + 1))


def test_places_are_added_by_row_and_column() -> None:
    place = AddPlace(4)
    x_BDhw = torch.randn(2, 4, 3, 5)
    added_BDhw = place(x_BDhw) - x_BDhw
    for row, column, y, x in [(0, 0, -1.0, -1.0), (1, 2, 0.0, 0.0), (2, 1, 1.0, -0.5), (0, 4, -1.0, 1.0)]:
        expected_D = y * place.weight_2D[0] + x * place.weight_2D[1]
        torch.testing.assert_close(added_BDhw[1, :, row, column], expected_D)


@every_tower
def test_the_map_depends_on_the_places(make: Make) -> None:
    tower = make().eval()
    before = tower(images_of())
    nn.init.zeros_(tower.place.weight_2D)  # type: ignore[union-attr, arg-type]
    assert not torch.allclose(tower(images_of()), before, atol=1e-3)
