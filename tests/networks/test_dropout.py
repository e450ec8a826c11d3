from __future__ import annotations

import pytest
import torch

from qseq.networks.dropout import Dropout, dropout


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_drops_the_asked_share_and_keeps_the_mean(probability: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    out = dropout(torch.ones(401, 1003, dtype=dtype), probability)
    assert out.dtype == dtype
    dropped = (out == 0).double()
    assert dropped.mean().item() == pytest.approx(probability, abs=0.004)
    # Every element on its own: no column (sixteen bits of the same place in a word) is favoured, no row either.
    for axis in (0, 1):
        share = dropped.mean(axis)
        assert (share - probability).abs().max() < 6 * (probability * (1 - probability) / dropped.shape[axis]) ** 0.5
    assert torch.unique(out[out != 0]).numel() == 1
    assert out.double().mean().item() == pytest.approx(1.0, abs=0.02)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    dropped = (dropout(torch.ones(1_000_000), 0.5) == 0).double() - 0.5
    for offset in (1, 2, 3, 4, 5, 8):
        assert abs((dropped[:-offset] * dropped[offset:]).mean().item()) < 5 * 0.25 / 1000


def test_the_gradient_passes_where_the_value_did() -> None:
    torch.manual_seed(0)
    x = torch.randn(7, 5, requires_grad=True)
    out = dropout(x, 0.4)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    torch.testing.assert_close(gradient * x, out)


def test_the_seed_decides_and_evaluation_changes_nothing() -> None:
    layer, x = Dropout(0.3), torch.randn(3, 9)
    torch.manual_seed(4)
    first = layer(x)
    second = layer(x)
    torch.manual_seed(4)
    assert torch.equal(layer(x), first)
    assert not torch.equal(first, second)
    assert layer.eval()(x) is x


def test_a_transposed_input_is_dropped_element_by_element() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 4).T
    out = dropout(x, 0.5)
    kept = out != 0
    torch.testing.assert_close(out[kept], 2 * x[kept])


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_a_probability_outside_zero_to_one_is_refused(probability: float) -> None:
    with pytest.raises(ValueError, match="dropout: found"):
        Dropout(probability)
