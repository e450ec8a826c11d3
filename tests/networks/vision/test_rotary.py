"""Rotary positions: products depend on where query and key lie relative to each other, and on nothing else."""

from __future__ import annotations

import cmath

import pytest
import torch

from qseq.networks.vision.rotary import AxialRotary, axial_angles, rotate

HEIGHT, WIDTH, E = 5, 6, 8


def scores_of_one_content() -> torch.Tensor:
    """Products of the same query and key put at all pairs of positions, [row, column, row, column]."""
    torch.manual_seed(0)
    query_E, key_E = torch.randn(2, E)
    rotary = AxialRotary(HEIGHT, WIDTH, E)
    queries, keys = (rotary(x.expand(HEIGHT * WIDTH, E)) for x in (query_E, key_E))
    return (queries @ keys.T).view(HEIGHT, WIDTH, HEIGHT, WIDTH)


def test_products_depend_on_the_relative_position_only() -> None:
    scores = scores_of_one_content()
    for rows in range(-HEIGHT + 1, HEIGHT):
        for columns in range(-WIDTH + 1, WIDTH):
            same = [
                scores[row, column, row + rows, column + columns]
                for row in range(max(0, -rows), min(HEIGHT, HEIGHT - rows))
                for column in range(max(0, -columns), min(WIDTH, WIDTH - columns))
            ]
            torch.testing.assert_close(torch.stack(same), same[0].expand(len(same)), atol=1e-5, rtol=0)


def test_both_axes_matter_and_are_told_apart() -> None:
    scores = scores_of_one_content()[0, 0]
    values = scores.flatten()
    distances = (values[:, None] - values[None, :]).abs() + torch.eye(len(values))
    assert distances.min() > 1e-4


def test_pairs_turn_like_complex_numbers() -> None:
    torch.manual_seed(1)
    x_TE = torch.randn(HEIGHT * WIDTH, E)
    out_TE = AxialRotary(HEIGHT, WIDTH, E)(x_TE)
    row, column = 3, 4
    x, out = x_TE[row * WIDTH + column], out_TE[row * WIDTH + column]
    # E = 8 has two pairs for each axis, of frequencies 1 and 100 ** (-1 / 2).
    for pair, angle in enumerate((row * 1.0, row * 0.1, column * 1.0, column * 0.1)):
        expected = complex(x[2 * pair], x[2 * pair + 1]) * cmath.exp(1j * angle)
        assert out[2 * pair].item() == pytest.approx(expected.real, abs=1e-5)
        assert out[2 * pair + 1].item() == pytest.approx(expected.imag, abs=1e-5)


def test_both_ways_to_turn_agree_and_so_do_their_gradients() -> None:
    """float32 on a CPU turns by complex products, other types by real ones; also what is no contiguous memory."""
    torch.manual_seed(2)
    rotary = AxialRotary(HEIGHT, WIDTH, E)
    queries_and_keys = torch.randn(2, HEIGHT * WIDTH, 3, 2 * E)
    fast = queries_and_keys[..., E:].transpose(1, 2).requires_grad_()
    slow = queries_and_keys.double()[..., E:].transpose(1, 2).requires_grad_()
    out_fast, out_slow = rotary(fast), rotary(slow)
    torch.testing.assert_close(out_fast.double(), out_slow, atol=1e-5, rtol=1e-5)
    gradients = [torch.autograd.grad((out**3).sum(), x)[0] for out, x in ((out_fast, fast), (out_slow, slow))]
    torch.testing.assert_close(gradients[0].double(), gradients[1], atol=1e-4, rtol=1e-4)


def test_type_and_length_stay() -> None:
    rotary = AxialRotary(HEIGHT, WIDTH, E)
    x_TE = torch.randn(2, 3, HEIGHT * WIDTH, E)
    torch.testing.assert_close(rotary(x_TE).norm(dim=-1), x_TE.norm(dim=-1))
    assert rotary(x_TE.bfloat16()).dtype == torch.bfloat16
    assert not rotary.state_dict()


def test_the_first_position_is_not_turned() -> None:
    angles_TR = axial_angles(HEIGHT, WIDTH, E)
    assert angles_TR.shape == (HEIGHT * WIDTH, E // 2)
    x_TE = torch.randn(HEIGHT * WIDTH, E)
    turned = rotate(x_TE, angles_TR.cos(), angles_TR.sin())
    assert torch.equal(turned[0], x_TE[0])
    assert not torch.allclose(turned[1], x_TE[1])


@pytest.mark.parametrize("dim_head", [0, 2, 6])
def test_a_head_without_a_pair_for_each_axis_is_refused(dim_head: int) -> None:
    with pytest.raises(ValueError, match=f"{dim_head} wide, expected a multiple of 4"):
        axial_angles(2, 2, dim_head)
