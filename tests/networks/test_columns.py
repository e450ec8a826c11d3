"""Weights laid out in columns: the same numbers, kept up to date."""

from __future__ import annotations

import torch
from torch import nn

from qseq.networks.columns import InColumns


def test_only_the_layout_changes() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4, bias=False))
    copied = InColumns().of(module)
    assert module[0].weight.stride() == (6, 1)
    assert copied[0].weight.stride() == (1, 8)  # the outputs of one input lie side by side
    assert all(torch.equal(copied.state_dict()[name], tensor) for name, tensor in module.state_dict().items())
    for rows in (1, 5):
        x_BD = torch.randn(rows, 6)
        torch.testing.assert_close(copied(x_BD), module(x_BD))


def test_the_copy_follows_the_weights_of_its_module() -> None:
    torch.manual_seed(0)
    module, other, columns = nn.Linear(3, 2), nn.Linear(3, 2), InColumns()
    x_BD = torch.randn(1, 3)
    with torch.inference_mode():
        first = columns.of(module)
    assert columns.of(module) is first
    with torch.no_grad():
        module.weight += 1.0
        module.bias.zero_()
    assert columns.of(module) is first  # the one that a program was made of
    assert first.weight.stride() == (1, 2)
    torch.testing.assert_close(first(x_BD), module(x_BD))
    torch.testing.assert_close(columns.of(other)(x_BD), other(x_BD))
