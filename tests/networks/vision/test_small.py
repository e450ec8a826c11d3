"""What is particular to the small tower: its sizes, its cost, and that it knows where things are."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from qseq.networks.vision import ConvTower


@pytest.mark.parametrize(("side", "positions"), [(56, 7), (64, 8), (84, 11), (60, 8)])
def test_sizes(side: int, positions: int) -> None:
    tower = ConvTower(dim=4)
    assert tower.feature_size(side, side) == (positions, positions)
    assert tower(torch.rand(1, 3, side, side)).shape == (1, 8, positions, positions)


def test_the_cost_is_as_documented() -> None:
    tower = ConvTower()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert tower(torch.rand(1, 3, 56, 56)).shape == (1, 64, 7, 7)
    assert counter.get_total_flops() / 1e6 == pytest.approx(19, abs=0.5)
    with FlopCounterMode(display=False) as larger, torch.no_grad():
        tower(torch.rand(1, 3, 84, 84))
    assert larger.get_total_flops() / counter.get_total_flops() == pytest.approx(2.4, abs=0.05)


def test_equal_surroundings_at_different_places_look_different() -> None:
    """In the middle of a blank image, away from the padding, only the coordinates tell positions apart."""
    torch.manual_seed(0)
    tower = ConvTower(dim=8, depth=(0,))
    image = torch.full((1, 3, 56, 56), 0.3)
    inner_DP = tower(image)[0, :, 2:-2, 2:-2].flatten(1)
    assert torch.cdist(inner_DP.T, inner_DP.T).add(torch.eye(inner_DP.shape[1])).min() > 1e-3
    torch.nn.init.zeros_(tower.place.weight_2D)
    inner_DP = tower(image)[0, :, 2:-2, 2:-2].flatten(1)
    assert torch.cdist(inner_DP.T, inner_DP.T).max() < 1e-3


def test_sizes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one stage"):
        ConvTower(depth=())
    with pytest.raises(ValueError, match=r"the height is 4, expected a multiple of 4 from 8 on"):
        ConvTower(dim=4)(torch.zeros(1, 3, 4, 8))


def test_patches_are_read_alone() -> None:
    torch.manual_seed(0)
    tower = ConvTower(dim=8, depth=(0,), patch=8)
    assert tower.feature_size(56, 48) == (7, 6)
    image = torch.rand(1, 3, 56, 48)
    other = image.clone()
    other[0, :, 8:16, 16:24] += 0.1
    before, after = (tower.stem(pixels) for pixels in (image, other))
    changed = (before != after).any(1)[0].nonzero().tolist()
    assert changed == [[1, 2]]
    with pytest.raises(ValueError, match=r"the width is 60, expected a multiple of 8 from 8 on"):
        tower(torch.zeros(1, 3, 56, 60))


@pytest.mark.parametrize("patch", [4, 8, 16])
def test_bytes_are_read_as_numbers_are(patch: int) -> None:
    """Whole words are moved where a patch is wide enough; a picture that starts between two words is no exception."""
    torch.manual_seed(0)
    stem = ConvTower(dim=8, depth=(0,), patch=patch).stem
    pixels = torch.randint(0, 256, (2 * 3 * 48 * 64 + 1,), dtype=torch.uint8)[1:].view(2, 3, 48, 64)
    assert torch.allclose(stem(pixels), stem(pixels / 255), atol=1e-5)


def test_a_hidden_layer_tells_shapes_apart_in_any_colour() -> None:
    """Black and white against grey is no linear function of a pixel; the hidden layer makes it one of the features."""
    torch.manual_seed(0)
    flat_N = torch.rand(64).round().mul(0.6).add(0.2)
    pixels_NP = torch.cat((flat_N, torch.full((64,), 0.5)))[:, None].expand(-1, 3 * 8 * 8)
    is_grey_N = torch.arange(128) >= 64

    def best_error(patch_hidden: int) -> float:
        tower = ConvTower(dim=8, depth=(0,), patch=8, patch_hidden=patch_hidden)
        features_ND = tower.stem(pixels_NP.reshape(-1, 3, 8, 8)).flatten(1).detach()
        design_NX = torch.cat((features_ND, torch.ones(128, 1)), 1)
        fitted_N1 = design_NX @ torch.linalg.pinv(design_NX) @ is_grey_N.float()[:, None]
        return float((fitted_N1[:, 0] - is_grey_N.float()).abs().max())

    assert best_error(0) > 0.4
    assert best_error(32) < 0.05
