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


def test_a_gated_layer_is_decided_by_the_instruction_from_the_start() -> None:
    torch.manual_seed(0)
    image, conditions = torch.rand(1, 3, 56, 56).expand(2, -1, -1, -1), torch.randn(2, 6)
    differ = {}
    for gated in (0, 32):
        tower = ConvTower(dim=8, depth=(1,), patch=8, gated=gated, condition_dim=6)
        one, other = tower(image, conditions).detach()
        differ[gated] = float((one - other).abs().mean() / one.std())
        assert tower(image, conditions[:1].expand(2, -1)).diff(dim=0).abs().max() < 1e-6
    assert differ[0] < 1e-6  # FiLM alone begins as the identity
    assert differ[32] > 0.05


def test_a_gated_layer_looks_at_one_position_and_takes_towers_without_instructions() -> None:
    torch.manual_seed(0)
    tower = ConvTower(dim=8, depth=(0,), patch=8, gated=16)
    assert tower.gated is not None
    one = torch.randn(1, 8, 3, 3)
    other = one.clone()
    other[..., 1, 2] += 1
    changed = (tower.gated(one, None) != tower.gated(other, None)).any(1)[0]
    assert changed.nonzero().tolist() == [[1, 2]]
    assert tower(torch.zeros(2, 3, 24, 24)).shape == (2, 8, 3, 3)
