"""FiLM starts as the identity, then scales and shifts by the condition; absent conditions are a learnt vector."""

from __future__ import annotations

import pytest
import torch

from qseq.networks.vision.film import FiLM, NullCondition, resolve_conditions

B, C, D = 3, 5, 4


@pytest.mark.parametrize(("channel_axis", "shape"), [(1, (B, D, 2, 3)), (-1, (B, 7, D)), (-1, (B, D))])
def test_identity_at_first_then_scale_and_shift(channel_axis: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    film = FiLM(C, D, channel_axis=channel_axis)
    x, conditions_BC = torch.randn(shape), torch.randn(B, C)
    assert torch.equal(film(x, conditions_BC), x)

    with torch.no_grad():
        film.to_scale_shift.weight.normal_()
        film.to_scale_shift.bias.normal_()
    linear_B2D = conditions_BC @ film.to_scale_shift.weight.T + film.to_scale_shift.bias
    out = film(x, conditions_BC).movedim(channel_axis, -1)
    for sample in range(B):
        expected = x[sample].movedim(channel_axis if channel_axis < 0 else channel_axis - 1, -1)
        expected = expected * (1 + linear_B2D[sample, :D]) + linear_B2D[sample, D:]
        torch.testing.assert_close(out[sample], expected)


def test_null_takes_the_place_of_absent_and_dropped_conditions() -> None:
    null = NullCondition(C)
    conditions_BC = torch.randn(B, C)
    torch.testing.assert_close(null(None, batch=B), null.null_C.expand(B, C))
    assert torch.equal(null(conditions_BC, batch=B), conditions_BC)
    keep_B = torch.tensor([True, False, True])
    mixed_BC = null(conditions_BC, batch=B, keep_B=keep_B)
    assert torch.equal(mixed_BC[keep_B], conditions_BC[keep_B])
    assert torch.equal(mixed_BC[1], null.null_C)


def test_null_always_has_a_gradient() -> None:
    null = NullCondition(C)
    null(torch.randn(B, C), batch=B).sum().backward()
    assert null.null_C.grad is not None


def test_wrong_conditions_are_refused() -> None:
    null = NullCondition(C)
    with pytest.raises(ValueError, match=r"shape \(1, 5\), expected \(3, 5\)"):
        null(torch.randn(1, C), batch=B)
    with pytest.raises(ValueError, match="without `condition_dim`"):
        resolve_conditions(None, torch.randn(B, C), batch=B)
    assert resolve_conditions(None, None, batch=B) is None
