"""The conservative regulariser: by hand, and against the defects of earlier code.

Legend: B batch, A action tokens of one decision, K bins of a token.
"""

from __future__ import annotations

import pytest
import torch

from qseq.values import conservative_penalty


def test_mean_of_squares_over_the_bins_not_taken() -> None:
    values = torch.tensor([[[0.5, 0.9, 0.1], [0.2, 0.4, 1.0]]])
    penalty = conservative_penalty(values, torch.tensor([[1, 2]]))
    # (.25 + .01) / 2 = .13 and (.04 + .16) / 2 = .1
    assert penalty.item() == pytest.approx(0.115)


def test_floor_is_the_least_return() -> None:
    values = torch.tensor([[[-1.0, 3.0, 0.0]]])
    assert conservative_penalty(values, torch.tensor([[1]]), floor=-1.0).item() == pytest.approx(0.5)


def test_gradient_touches_only_the_bins_not_taken() -> None:
    values = torch.rand(3, 2, 4, requires_grad=True)
    taken = torch.tensor([[0, 1], [2, 3], [3, 3]])
    conservative_penalty(values, taken).backward()
    assert values.grad is not None
    assert values.grad.gather(2, taken.unsqueeze(-1)).abs().max() == 0
    assert (values.grad > 0).sum() == 3 * 2 * 3


def test_values_are_pulled_to_the_floor_not_to_the_middle_of_the_range() -> None:
    """Applied to logits, as in earlier code, the regulariser rests at sigmoid(0) = .5."""
    logits = torch.zeros(1, 1, 2, requires_grad=True)
    conservative_penalty(logits.sigmoid(), torch.tensor([[0]])).backward()
    assert logits.grad is not None
    assert logits.grad[0, 0, 1] > 0


@pytest.mark.parametrize(("rows", "tokens", "bins"), [(1, 1, 2), (64, 1, 2), (1, 40, 2), (8, 8, 256)])
def test_strength_depends_on_no_size(rows: int, tokens: int, bins: int) -> None:
    """Summed over batch, time and dimensions, as in earlier code, it drowned the other loss by hundreds."""
    values = torch.full((rows, tokens, bins), 0.3)
    penalty = conservative_penalty(values, torch.zeros(rows, tokens, dtype=torch.int64))
    assert penalty.item() == pytest.approx(0.09, rel=1e-5)


def test_bins_that_do_not_exist_do_not_count() -> None:
    mask = torch.tensor([[True, True, False], [True, True, True], [True, False, False]])
    values = torch.tensor([[[0.5, 0.9, -torch.inf], [0.2, 0.4, 1.0], [0.7, 9.0, 9.0]]], requires_grad=True)
    penalty = conservative_penalty(values, torch.tensor([[1, 2, 0]]), token_mask_AK=mask)
    # .25 / 1, (.04 + .16) / 2, and a token with a single bin has nothing to pull
    assert penalty.item() == pytest.approx((0.25 + 0.1 + 0.0) / 3)
    penalty.backward()
    assert values.grad is not None
    assert values.grad.isfinite().all()
    assert values.grad[0, 0, 2] == 0


def test_behaviour_probabilities_weigh_the_bins() -> None:
    values = torch.tensor([[[0.5, 0.9, 0.1]]])
    behaviour = torch.tensor([[[0.5, 0.3, 0.2]]])
    penalty = conservative_penalty(values, torch.tensor([[1]]), behaviour_BAK=behaviour)
    # weights .5 and .8 over the bins not taken
    assert penalty.item() == pytest.approx((0.5 * 0.25 + 0.8 * 0.01) / 1.3)


def test_uniform_weights_are_those_of_a_behaviour_that_is_certain() -> None:
    values, taken = torch.rand(5, 3, 7), torch.randint(7, (5, 3))
    certain = torch.nn.functional.one_hot(taken, 7).float()
    expected = conservative_penalty(values, taken)
    assert torch.allclose(conservative_penalty(values, taken, behaviour_BAK=certain), expected)
    mask = torch.ones(3, 7, dtype=torch.bool)
    assert torch.allclose(conservative_penalty(values, taken, token_mask_AK=mask), expected)


def test_tokens_beyond_the_end_of_an_episode_can_be_left_out() -> None:
    values = torch.tensor([[[0.5, 0.5], [0.1, 0.1]]])
    penalty = conservative_penalty(values, torch.zeros(1, 2).long(), token_weights_BA=torch.tensor([[True, False]]))
    assert penalty.item() == pytest.approx(0.25)


def test_float32_under_autocast() -> None:
    values = torch.full((1, 1, 257), 0.3).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        penalty = conservative_penalty(values, torch.zeros(1, 1, dtype=torch.int64))
    assert penalty.dtype == torch.float32
    assert penalty.item() == pytest.approx(values.float()[0, 0, 0].item() ** 2, rel=1e-5)
