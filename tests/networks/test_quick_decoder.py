"""The decoder's copy for single decisions: the same numbers, kept up to date."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from qseq.networks.action_decoder import ActionDecoder
from qseq.networks.decoding import decode_tokens, greedy
from qseq.networks.quantised import Int8Linear, quantised
from qseq.networks.quick_decoder import QuickDecoder, in_columns
from qseq.networks.twin_decoder import TwinDecoder

B, A, K, S, D = 3, 4, 5, 6, 8


def make_decoder(**options: Any) -> ActionDecoder:
    return ActionDecoder(D, num_tokens=A, num_bins=K, depth=2, heads=2, dim_head=4, **options).eval()


def test_only_the_layout_of_weights_changes() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 4, bias=False))
    copied = in_columns(module)
    assert module[0].weight.stride() == (6, 1)
    assert copied[0].weight.stride() == (1, 8)  # the outputs of one input lie side by side
    assert all(torch.equal(copied.state_dict()[name], tensor) for name, tensor in module.state_dict().items())
    for rows in (1, 5):
        x_BD = torch.randn(rows, 6)
        torch.testing.assert_close(copied(x_BD), module(x_BD))


@pytest.mark.parametrize("options", [{}, {"tied": True, "dueling": True}, {"any_order": True}])
@pytest.mark.parametrize("use_cache", [True, False])
def test_decisions_and_scores_are_the_same(options: dict[str, Any], use_cache: bool) -> None:
    torch.manual_seed(0)
    decoder, context_BSD = make_decoder(**options), torch.randn(B, S, D)
    found, expected = (
        decode_tokens(part, context_BSD, greedy, score=torch.sigmoid, use_cache=use_cache)
        for part in (QuickDecoder().of(decoder), decoder)
    )
    assert torch.equal(found[0], expected[0])
    torch.testing.assert_close(found[1], expected[1])


def test_eight_bit_weights_are_multiplied_as_they_are() -> None:
    torch.manual_seed(0)
    decoder = quantised(ActionDecoder(32, num_tokens=A, num_bins=K, depth=2, heads=2, dim_head=16).eval(), "int8")
    quick = QuickDecoder().of(decoder)
    assert not any(part.quick for part in decoder.modules() if isinstance(part, Int8Linear))
    assert all(part.quick for part in quick.modules() if isinstance(part, Int8Linear))
    context_BSD, tokens_BA = torch.randn(B, S, 32), torch.randint(0, K, (B, A))
    for prefix_BP in (tokens_BA[:, :0], tokens_BA[:, : A - 1]):
        torch.testing.assert_close(quick(context_BSD, prefix_BP), decoder(context_BSD, prefix_BP), atol=0.05, rtol=0.05)


def test_the_first_block_projects_nothing_while_decoding() -> None:
    torch.manual_seed(0)
    quick: Any = QuickDecoder().of(make_decoder())
    calls: list[int] = []
    for index, block in enumerate(quick.blocks):
        block.self_attention.to_qkv.register_forward_hook(lambda *_, index=index: calls.append(index))
    decode_tokens(quick, torch.randn(1, S, D), greedy, score=torch.sigmoid)
    assert calls == [1] * A


def test_the_copy_follows_the_weights_of_its_decoder() -> None:
    torch.manual_seed(0)
    decoder, other, quick = make_decoder(), make_decoder(), QuickDecoder()
    context_BSD, prefix_BP = torch.randn(B, S, D), torch.randint(0, K, (B, A - 1))
    with torch.inference_mode():
        first = quick.of(decoder)
    assert quick.of(decoder) is first
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    assert quick.of(decoder) is first  # the one that a program was made of
    torch.testing.assert_close(first(context_BSD, prefix_BP), decoder(context_BSD, prefix_BP))
    torch.testing.assert_close(quick.of(other)(context_BSD, prefix_BP), other(context_BSD, prefix_BP))


def test_two_critics_are_both_quick() -> None:
    torch.manual_seed(0)
    twin, context_BSD, prefix_BP = (
        TwinDecoder([make_decoder(), make_decoder()]),
        torch.randn(B, S, D),
        torch.empty(B, 0),
    )
    quick: Any = QuickDecoder().of(twin)
    assert all(critic._qkv_of is not None for critic in quick.critics)
    assert list(quick.state_dict()) == list(twin.state_dict())
    torch.testing.assert_close(quick(context_BSD, prefix_BP.long()), twin(context_BSD, prefix_BP.long()))
