"""A tower's blocks for a few images at a time: the same results and gradients, from less at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from qseq.networks.dropout import Dropout
from qseq.networks.vision import ConvTower, MaxViT
from qseq.networks.vision import in_parts as module
from qseq.networks.vision.in_parts import images_at_once, in_parts

N = 5


class Block(nn.Module):
    """Notes how many images it is shown, and adds the condition where there is one."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.dropout = Dropout(dropout)
        self.seen: list[int] = []

    def forward(self, x_ND: Tensor, condition_ND: Tensor | None) -> Tensor:
        self.seen.append(len(x_ND))
        out_ND: Tensor = self.dropout(self.linear(x_ND).tanh())
        return out_ND if condition_ND is None else out_ND + condition_ND


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("conditioned", [False, True])
def test_parts_are_shown_in_order_and_put_together(recompute: bool, conditioned: bool) -> None:
    torch.manual_seed(0)
    block, x_ND = Block(), torch.randn(N, 3, requires_grad=True)
    condition_ND = torch.randn(N, 3) if conditioned else None
    whole_ND = block(x_ND, condition_ND)
    block.seen.clear()
    out_ND = in_parts(block, x_ND, condition_ND, at_once=2, recompute=recompute)
    torch.testing.assert_close(out_ND, whole_ND)
    assert block.seen == [2, 2, 1]
    out_ND.sum().backward()
    assert block.seen == [2, 2, 1] + ([1, 2, 2] if recompute else [])  # the way back begins at the end


def test_what_was_dropped_is_dropped_again() -> None:
    torch.manual_seed(0)
    block, x_ND = Block(dropout=0.5), torch.randn(N, 3)
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(1)
        in_parts(block, x_ND, None, at_once=2, recompute=recompute).square().sum().backward()
        gradients.append(block.linear.weight.grad)
        block.zero_grad()
    torch.testing.assert_close(gradients[1], gradients[0], rtol=0, atol=1e-6)


def test_large_maps_are_seen_one_at_a_time_and_a_gpu_sees_all() -> None:
    def at_once(side: int, stride: int = 1, device: str = "cpu") -> int:
        return images_at_once(torch.empty(40, 1, side, side, device=device), stride)

    assert at_once(112) == at_once(28) == 1
    assert at_once(28, stride=2) == at_once(14) == 5
    assert at_once(7) == 20
    assert at_once(112, device="meta") == 40  # stands for a GPU


def conv(**options: Any) -> nn.Module:
    return ConvTower(dim=8, depth=(1, 1), condition_dim=3, **options)


def maxvit(dropout: float = 0.0, **options: Any) -> nn.Module:
    return MaxViT(
        num_classes=0, dim=8, depth=(1, 1), dim_head=4, window_size=2, dropout=dropout, condition_dim=3, **options
    )


def gradients_of(make: Callable[..., nn.Module], **options: Any) -> dict[str, Tensor]:
    torch.manual_seed(0)
    tower, images, conditions = make(**options), torch.rand(N, 3, 32, 32), torch.randn(N, 3)
    torch.manual_seed(1)
    tower(images, conditions).square().mean().backward()
    return {name: parameter.grad for name, parameter in tower.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize("make", [conv, maxvit])
def test_a_tower_in_parts_has_the_gradients_of_the_whole(
    make: Callable[..., nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = gradients_of(make)
    monkeypatch.setattr(module, "_POSITIONS_AT_ONCE", 2 * 16)  # less than all images in every stage
    parts = gradients_of(make, checkpoint_activations=True)
    assert parts.keys() == whole.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-5, atol=1e-6)


def test_a_tower_in_parts_drops_again_what_it_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POSITIONS_AT_ONCE", 2 * 16)
    again = gradients_of(maxvit, dropout=0.3, checkpoint_activations=True)
    monkeypatch.setattr(module, "checkpoint", lambda block, *part, use_reentrant: block(*part))
    kept = gradients_of(maxvit, dropout=0.3, checkpoint_activations=True)
    for name, gradient in kept.items():
        torch.testing.assert_close(again[name], gradient, rtol=0, atol=1e-6)


def test_a_compiled_tower_recomputes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POSITIONS_AT_ONCE", 2 * 16)

    def compiled(**options: Any) -> nn.Module:
        tower = conv(**options)
        tower.compile(backend="aot_eager", fullgraph=True)
        return tower

    eager = gradients_of(conv, checkpoint_activations=True)
    for name, gradient in gradients_of(compiled, checkpoint_activations=True).items():
        torch.testing.assert_close(gradient, eager[name], rtol=1e-5, atol=1e-6)


def test_without_gradients_nothing_is_computed_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_POSITIONS_AT_ONCE", 2 * 16)
    tower: Any = maxvit(checkpoint_activations=True).eval()
    seen: list[int] = []
    tower.blocks[0].register_forward_pre_hook(lambda _, inputs: seen.append(len(inputs[0])))
    images = torch.rand(N, 3, 32, 32)
    out = tower(images)
    assert seen == [1] * N  # few at a time all the same: what a target network needs inside is as large
    tower.checkpoint_activations = False
    torch.testing.assert_close(out, tower(images))
