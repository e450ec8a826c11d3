"""Windows and grids hold the positions they should, attention stays within them, and gates can close."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qseq.networks.vision.rotary import AxialRotary
from qseq.networks.vision.window_attention import (
    GatedWindowAttention,
    Partition,
    PartitionAttention,
    partition,
    unpartition,
)

HEIGHT, WIDTH, SIZE, D = 4, 6, 2, 8


def window_of(kind: Partition, row: int, column: int) -> tuple[int, int]:
    """Which window a position belongs to, by the definition rather than by reshaping."""
    return (row // SIZE, column // SIZE) if kind == "block" else (row % (HEIGHT // SIZE), column % (WIDTH // SIZE))


@pytest.mark.parametrize("kind", ["block", "grid"])
def test_round_trip(kind: Partition) -> None:
    x_BhwD = torch.arange(3 * HEIGHT * WIDTH * D, dtype=torch.float32).view(3, HEIGHT, WIDTH, D)
    windows_NTD = partition(x_BhwD, SIZE, kind)
    assert windows_NTD.shape == (3 * HEIGHT * WIDTH // SIZE**2, SIZE**2, D)
    assert not torch.equal(windows_NTD.reshape(-1), x_BhwD.reshape(-1))
    assert torch.equal(unpartition(windows_NTD, SIZE, kind, HEIGHT, WIDTH), x_BhwD)


@pytest.mark.parametrize("kind", ["block", "grid"])
def test_a_window_holds_its_positions_row_by_row(kind: Partition) -> None:
    positions = torch.arange(HEIGHT * WIDTH).view(1, HEIGHT, WIDTH, 1)
    expected: dict[tuple[int, int], list[int]] = {}
    for row in range(HEIGHT):
        for column in range(WIDTH):
            expected.setdefault(window_of(kind, row, column), []).append(row * WIDTH + column)
    found = partition(positions, SIZE, kind)[..., 0].tolist()
    assert found == [expected[window] for window in sorted(expected)]


@pytest.mark.parametrize("kind", ["block", "grid"])
def test_a_position_changes_its_own_window_only(kind: Partition) -> None:
    torch.manual_seed(0)
    attention = PartitionAttention(D, kind=kind, heads=2, dim_head=4, window_size=SIZE)
    x_BhwD = torch.randn(2, HEIGHT, WIDTH, D)
    changed_BhwD = x_BhwD.clone()
    changed_BhwD[0, 1, 3, 0] += 3.0
    difference_Bhw = (attention(changed_BhwD) - attention(x_BhwD)).abs().amax(-1)
    assert difference_Bhw[1].max() == 0
    for row in range(HEIGHT):
        for column in range(WIDTH):
            inside = window_of(kind, row, column) == window_of(kind, 1, 3)
            assert (difference_Bhw[0, row, column] > 1e-6) == inside, (row, column)


def test_a_map_that_windows_do_not_divide_is_refused() -> None:
    with pytest.raises(ValueError, match="4 x 6 positions, expected sides that are multiples of 4"):
        partition(torch.zeros(1, HEIGHT, WIDTH, D), 4, "block")


def test_a_closed_gate_silences_its_head_only() -> None:
    torch.manual_seed(0)
    heads, dim_head = 2, 4
    attention = GatedWindowAttention(D, heads=heads, dim_head=dim_head, window_size=SIZE)
    attention.to_out = nn.Identity()  # shows the heads side by side
    x_NTD = torch.randn(3, SIZE**2, D)
    assert attention(x_NTD).abs().max() > 0.01
    with torch.no_grad():
        attention.to_gate.bias[0] = -30.0
    out_NTHE = attention(x_NTD).unflatten(-1, (heads, dim_head))
    assert out_NTHE[:, :, 0].abs().max() < 1e-9
    assert out_NTHE[:, :, 1].abs().max() > 0.01


def test_attention_equals_its_definition() -> None:
    torch.manual_seed(0)
    heads, dim_head = 2, 4
    attention = GatedWindowAttention(D, heads=heads, dim_head=dim_head, window_size=SIZE)
    nn.init.normal_(attention.to_gate.weight)
    rotary = AxialRotary(SIZE, SIZE, dim_head)
    x_TD = torch.randn(SIZE**2, D)
    query, key, value = (part.unflatten(-1, (heads, dim_head)) for part in attention.to_qkv(x_TD).chunk(3, dim=-1))
    parts = []
    for head in range(heads):
        weights_TT = (rotary(query[:, head]) @ rotary(key[:, head]).T / dim_head**0.5).softmax(-1)
        gate_T1 = attention.to_gate(x_TD)[:, head, None].sigmoid()
        parts.append(weights_TT @ value[:, head] * gate_T1)
    expected_TD = attention.to_out(torch.cat(parts, dim=-1))
    torch.testing.assert_close(attention(x_TD[None])[0], expected_TD)


def test_position_within_the_window_matters() -> None:
    """Without positions attention would only permute its outputs when its inputs are permuted."""
    torch.manual_seed(0)
    attention = GatedWindowAttention(D, heads=2, dim_head=4, window_size=SIZE)
    x_NTD = torch.randn(1, SIZE**2, D)
    order = torch.tensor([1, 3, 0, 2])
    assert not torch.allclose(attention(x_NTD[:, order]), attention(x_NTD)[:, order], atol=1e-4)


def test_dropout_is_for_training() -> None:
    torch.manual_seed(0)
    block = PartitionAttention(D, kind="block", heads=2, dim_head=4, window_size=SIZE, dropout=0.5)
    # The attention weights by themselves, and the block around them.
    for module, x in ((block.attention, torch.randn(3, SIZE**2, D)), (block, torch.randn(1, HEIGHT, WIDTH, D))):
        assert not torch.equal(module(x), module(x))
        module.eval()
        assert torch.equal(module(x), module(x))
        module.train()
        block.attention.dropout = 0.0
