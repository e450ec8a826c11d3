"""What is particular to MaxViT: sizes of stages, the head, dropped samples, recomputed activations."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qseq.networks.vision import MaxViT
from qseq.networks.vision.mbconv import DropSample, MBConv, PointwiseConv, SqueezeExcitation
from qseq.networks.vision.tower import ChannelLayerNorm, group_norm
from qseq.networks.vision.window_attention import GatedWindowAttention

B = 2


def make_maxvit(**changes: object) -> MaxViT:
    torch.manual_seed(0)
    arguments: dict[str, object] = {"num_classes": 5, "dim": 8, "depth": (1, 1), "dim_head": 4, "window_size": 2}
    return MaxViT(**(arguments | changes))  # type: ignore[arg-type]


def test_logits_are_the_head_over_the_mean_of_the_map() -> None:
    tower = make_maxvit().eval()
    images = torch.rand(B, 3, 16, 32)
    map_BDhw = tower(images, return_embeddings=True)
    assert map_BDhw.shape == (B, 16, 2, 4)
    logits = tower(images)
    assert logits.shape == (B, 5)
    assert tower.head is not None
    torch.testing.assert_close(logits, tower.head(map_BDhw.mean((2, 3))))
    assert torch.equal(make_maxvit(num_classes=0).eval()(images), map_BDhw)


def test_the_maps_that_attention_sees_halve_and_widen_at_each_stage() -> None:
    tower = make_maxvit(depth=(2, 1, 1), dim_conv_stem=6, window_size=1)
    seen: list[tuple[int, ...]] = []
    for block in tower.blocks:
        block.mbconv.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    assert tower(torch.rand(1, 3, 64, 32), return_embeddings=True).shape == (1, 32, 4, 2)
    assert seen == [(8, 16, 8), (8, 16, 8), (16, 8, 4), (32, 4, 2)]
    assert tower.stem(torch.rand(1, 3, 64, 32)).shape == (1, 6, 32, 16)


def test_heads_fill_the_width_of_the_stage_unless_given() -> None:
    def heads(tower: MaxViT) -> list[int]:
        return [module.heads for module in tower.modules() if isinstance(module, GatedWindowAttention)]

    assert heads(make_maxvit()) == [2, 2, 4, 4]
    assert heads(make_maxvit(heads=3)) == [3, 3, 3, 3]


def test_grid_attention_joins_far_corners() -> None:
    """Convolutions and blocks see little of the map: the far corner is seen by the grid, in the first stage already."""
    torch.manual_seed(0)
    tower = make_maxvit(depth=(1,), window_size=4).eval()
    tower.blocks[0].mbconv = nn.Conv2d(8, 8, 2, stride=2)
    tower.stem = nn.Conv2d(3, 8, 2, stride=2)
    images = torch.rand(1, 3, 32, 32)
    changed = images.clone()
    changed[..., 0, 0] += 1
    difference_hw = (tower(changed, return_embeddings=True) - tower(images, return_embeddings=True)).abs().amax((0, 1))
    assert difference_hw.shape == (8, 8)
    # The upper left block passes on what it has seen to the grid of each of its positions: to the whole map.
    assert (difference_hw > 0).all()


def test_recomputed_activations_give_the_same_gradients() -> None:
    images = torch.rand(B, 3, 16, 16)
    gradients = []
    for recompute in (False, True):
        tower = make_maxvit(checkpoint_activations=recompute, condition_dim=3, dropout=0.3)
        calls: list[int] = []
        tower.blocks[0].mbconv.register_forward_hook(lambda module, inputs, output, calls=calls: calls.append(1))
        torch.manual_seed(1)  # what is dropped must be drawn again
        tower(images, torch.ones(B, 3)).square().sum().backward()
        assert len(calls) == (2 if recompute else 1)
        gradients.append([parameter.grad for parameter in tower.parameters()])
        calls.clear()
        tower.eval()(images)
        assert len(calls) == 1
    for kept, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, recomputed)


def test_dropout_and_dropped_samples_are_for_training() -> None:
    tower = make_maxvit(dropout=0.4)
    images = torch.rand(B, 3, 16, 16)
    assert not torch.equal(tower(images), tower(images))
    tower.eval()
    assert torch.equal(tower(images), tower(images))


def test_dropped_samples_are_zero_and_the_mean_stays() -> None:
    torch.manual_seed(0)
    drop = DropSample(0.25)
    x_BDhw = torch.ones(4000, 2, 1, 3)
    out_BX = drop(x_BDhw).flatten(1)
    assert (out_BX == out_BX[:, :1]).all()
    dropped_B = out_BX[:, 0] == 0
    torch.testing.assert_close(out_BX[~dropped_B], torch.full((int((~dropped_B).sum()), 6), 4 / 3))
    assert dropped_B.float().mean().item() == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop.eval()(x_BDhw), x_BDhw)


def test_a_convolution_block_whose_samples_are_dropped_is_its_shortcut() -> None:
    torch.manual_seed(0)
    shared = {"expansion_rate": 2.0, "shrinkage_rate": 0.25, "make_norm": group_norm}
    x_BDhw = torch.randn(B, 4, 6, 6)
    kept = MBConv(4, 4, stride=1, dropout=1 - 1e-9, **shared)  # type: ignore[arg-type]
    torch.testing.assert_close(kept(x_BDhw), x_BDhw)
    halved = MBConv(4, 8, stride=2, dropout=0.0, **shared)  # type: ignore[arg-type]
    assert halved(x_BDhw).shape == (B, 8, 3, 3)


def test_a_pointwise_convolution_is_one() -> None:
    torch.manual_seed(0)
    pointwise, x_BDhw = PointwiseConv(4, 6, 1), torch.randn(B, 4, 3, 5).to(memory_format=torch.channels_last)
    found, expected = pointwise(x_BDhw), nn.functional.conv2d(x_BDhw, pointwise.weight, pointwise.bias)
    torch.testing.assert_close(found, expected)
    assert found.stride() == expected.stride()  # no copy is made on the way
    torch.testing.assert_close(
        *(torch.autograd.grad(out.square().sum(), list(pointwise.parameters())) for out in (found, expected))
    )


def test_squeeze_excitation_scales_each_feature_by_one_gate() -> None:
    torch.manual_seed(0)
    x_BDhw = torch.rand(B, 8, 3, 3) + 0.5
    gates = SqueezeExcitation(8, shrinkage_rate=0.25)(x_BDhw) / x_BDhw
    torch.testing.assert_close(gates, gates[:, :, :1, :1].expand_as(gates))
    assert ((gates > 0) & (gates < 1)).all()


def test_layer_norm_is_over_the_features_of_a_position() -> None:
    out_BDhw = ChannelLayerNorm(8)(torch.randn(B, 8, 3, 5) * 4 + 2)
    torch.testing.assert_close(out_BDhw.mean(1), torch.zeros(B, 3, 5), atol=1e-5, rtol=0)
    torch.testing.assert_close(out_BDhw.var(1, unbiased=False), torch.ones(B, 3, 5), atol=1e-3, rtol=0)


def test_the_message_about_a_side_names_what_divides_it() -> None:
    tower = make_maxvit(window_size=7, depth=(1, 1, 1, 1))
    assert tower.feature_size(224, 448) == (7, 14)
    with pytest.raises(ValueError, match=r"the width is 256, expected a multiple of 224 \(window_size 7 times 2"):
        tower.feature_size(224, 256)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"depth": ()}, "at least one stage"),
        ({"depth": (1, 0)}, "at least one block"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"dim": 10}, r"dim is 10, expected a multiple of dim_head \(4\)"),
        ({"dim_head": 6, "heads": 2}, "expected a multiple of 4"),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_maxvit(**changes)
