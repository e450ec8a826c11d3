"""Heads and searches: dueling, two critics, pooled, any order, beam search, Gumbel noise."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor

from qseq.errors import ConfigError
from qseq.networks.beam_search import beam_search
from qseq.networks.decoder import Decoder
from qseq.networks.decoding import annealed, decode_tokens, greedy, gumbel
from qseq.networks.dueling import centred
from qseq.networks.head import HeadConfig, make_head, require_plain_head
from qseq.networks.ordering import by_token, fixed_orders, identity_order, in_order, random_order

B, A, K, D = 4, 3, 5, 16
NO_TOKENS = torch.empty((B, 0), dtype=torch.long)


def head_of(
    num_tokens: int = A, *, tied: bool = False, mask: Tensor | None = None, outputs: int = 1, **options: object
) -> Decoder:
    torch.manual_seed(0)
    return make_head(
        HeadConfig(**options),  # type: ignore[arg-type]
        D,
        num_tokens=num_tokens,
        num_bins=K,
        ff_mult=2,
        tied=tied,
        outputs_per_bin=outputs,
        initial_logit=0.7,
        token_mask_AK=mask,
        depth=1,
        heads=2,
        dim_head=8,
    ).eval()


def context() -> Tensor:
    return torch.randn(B, 2, D, generator=torch.Generator().manual_seed(1))


def every_decision() -> Tensor:
    return torch.tensor(list(product(range(K), repeat=A)))


# --- dueling -----------------------------------------------------------------------------------------------------


def test_centred_advantages_by_hand() -> None:
    advantages = torch.tensor([[1.0, 2.0, 6.0], [1.0, 2.0, 6.0]])[..., None]
    mask = torch.tensor([[True, True, True], [True, True, False]])
    expected = torch.tensor([[-2.0, -1.0, 3.0], [-0.5, 0.5, 4.5]])
    torch.testing.assert_close(centred(advantages, mask)[..., 0], expected)
    torch.testing.assert_close(centred(advantages)[0, :, 0], expected[0])


@pytest.mark.parametrize(("tied", "outputs"), [(False, 1), (True, 1), (False, 3)])
def test_dueling_scores_average_to_the_value_over_the_bins_that_exist(tied: bool, outputs: int) -> None:
    mask = torch.arange(K) < torch.tensor([2, 5, 1])[:, None]
    head = head_of(tied=tied, mask=mask, outputs=outputs, dueling=True)
    tokens = torch.zeros(B, A - 1, dtype=torch.long)
    hidden = head.hidden(context(), tokens)  # type: ignore[operator]
    logits = head(context(), tokens).view(B, A, K, outputs)
    value = torch.einsum("bad,ado->bao", hidden, head.dueling.value_ADO) + 0.7  # type: ignore[union-attr]
    mean = (logits * mask[..., None]).sum(2) / mask.sum(-1)[:, None]
    torch.testing.assert_close(mean, value)


# --- two critics -------------------------------------------------------------------------------------------------


def test_two_critics_start_different_and_share_no_parameter() -> None:
    head = head_of(dual_critics=True)
    logits = head(context(), NO_TOKENS)
    assert logits.shape == (B, 1, K, 2)
    assert (logits[..., 0] - logits[..., 1]).abs().min() > 1e-4
    first, second = head.critics  # type: ignore[misc]
    assert not {p.data_ptr() for p in first.parameters()} & {p.data_ptr() for p in second.parameters()}


def test_two_critics_decode_from_one_cache() -> None:
    head = head_of(dual_critics=True, dueling=True)
    found = [
        decode_tokens(head, context(), greedy, score=lambda x: x.amin(-1), use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=0)


# --- one token ---------------------------------------------------------------------------------------------------


def test_the_pooled_head_sees_every_token_and_no_order_of_them() -> None:
    head = head_of(1, pooled=True, outputs=3, dueling=True)
    logits = head(context(), NO_TOKENS)
    assert logits.shape == (B, 1, K, 3)
    torch.testing.assert_close(head(context().flip(1), NO_TOKENS), logits)
    with pytest.raises(ConfigError, match=r"network\.head\.pooled: found a decision of 3 tokens, expected 1"):
        head_of(A, pooled=True)


def test_families_without_values_refuse_critics_and_orders() -> None:
    require_plain_head(HeadConfig(dueling=True))
    for options in ({"dual_critics": True}, {"dimension_order": "random"}):
        with pytest.raises(ConfigError, match=r"^network\.head\..*: found .*, expected"):
            require_plain_head(HeadConfig(**options))  # type: ignore[arg-type]


# --- orders ------------------------------------------------------------------------------------------------------


def test_orders() -> None:
    orders = fixed_orders(4, 5)
    assert orders.tolist()[:2] == [[0, 1, 2, 3], [3, 2, 1, 0]]
    assert len({tuple(order) for order in orders.tolist()}) == 5
    assert (orders.sort(1).values == torch.arange(4)).all()
    assert fixed_orders(1, 4).tolist() == [[0]]
    assert len(fixed_orders(2, 9)) == 2
    torch.manual_seed(0)
    drawn = random_order(3, 6000)
    assert (drawn.sort(1).values == torch.arange(3)).all()
    counts = torch.unique(drawn, dim=0, return_counts=True)[1]
    assert len(counts) == 6
    assert counts.float().div(6000).sub(1 / 6).abs().max() < 0.02
    chunked = random_order(6, 50, steps=3)
    assert (chunked // 2 == torch.tensor([0, 0, 1, 1, 2, 2])).all()
    values = torch.randn(50, 6, 2)
    assert torch.equal(by_token(in_order(values, chunked), chunked), values)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
def test_tokens_may_be_decided_in_any_order(tied: bool, dueling: bool) -> None:
    head = head_of(tied=tied, dueling=dueling, dimension_order="random")
    tokens = torch.randint(K, (B, A))
    own = head(context(), tokens[:, :-1])
    torch.testing.assert_close(head(context(), tokens[:, :-1], None, identity_order(A, B)), own)
    order = torch.tensor([[2, 0, 1], [2, 1, 0], [0, 1, 2], [1, 2, 0]])
    ordered = head(context(), in_order(tokens, order)[:, :-1], None, order)
    torch.testing.assert_close(ordered[2], own[2])
    # Rows 0 and 1 begin with the same token: what follows later does not change what is thought of it.
    swapped = order.clone()
    swapped[0] = order[1]
    torch.testing.assert_close(head(context(), NO_TOKENS, None, swapped), ordered[:, :1])
    # Nothing a position has not decided yet is seen, and what it has seen is.
    changed = tokens.clone()
    changed[:, 0] = (tokens[:, 0] + 1) % K
    after = head(context(), in_order(changed, order)[:, :-1], None, order)
    position_of_0 = order.argsort(1)[:, 0]
    for row, position in enumerate(position_of_0.tolist()):
        torch.testing.assert_close(after[row, : position + 1], ordered[row, : position + 1])
        assert position == A - 1 or not torch.allclose(after[row, position + 1 :], ordered[row, position + 1 :])


@pytest.mark.parametrize("prefix_length", [0, 2])
def test_cached_decoding_in_an_order_equals_uncached(prefix_length: int) -> None:
    head = head_of(dimension_order="random", dual_critics=True)
    order = torch.tensor([[2, 0, 1], [2, 1, 0], [0, 1, 2], [1, 2, 0]])
    prefix = torch.randint(K, (B, prefix_length))
    mask = torch.arange(K) < torch.tensor([1, 3, 5])[:, None]
    found = [
        decode_tokens(
            head, context(), greedy, score=lambda x: x.amin(-1), prefix_BP=prefix, token_mask_AK=mask, order_BA=order,
            use_cache=use_cache,
        )
        for use_cache in (True, False)
    ]  # fmt: skip
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=0)
    assert torch.equal(found[0][0][:, :prefix_length], prefix)
    assert (found[0][0] < mask.sum(1)[order])[:, prefix_length:].all()


# --- beam search -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("use_cache", [True, False])
@pytest.mark.parametrize("dimension_order", ["fixed", "random"])
def test_a_full_beam_finds_the_best_of_all_decisions(use_cache: bool, dimension_order: str) -> None:
    head = head_of(dimension_order=dimension_order)
    order = None if dimension_order == "fixed" else random_order(A, B)
    tokens, scores = beam_search(head, context(), K ** (A - 1), score=lambda x: x, order_BA=order, use_cache=use_cache)
    for row in range(B):
        decisions = every_decision()
        repeated = context()[row].expand(len(decisions), -1, -1)
        row_order = None if order is None else order[row].expand(len(decisions), -1)
        last = head(repeated, decisions[:, :-1], None, row_order)[:, -1].gather(1, decisions[:, -1:])[:, 0]
        assert torch.equal(tokens[row], decisions[last.argmax()])
        assert scores[row, -1].max().item() == pytest.approx(last.max().item(), abs=1e-5)
    torch.testing.assert_close(scores, head(context(), tokens[:, :-1], None, order), atol=1e-5, rtol=0)


def test_a_beam_of_one_is_greedy_and_a_wider_one_is_better() -> None:
    head = head_of()
    best = []
    for width in (1, 2, K**2):
        tokens, scores = beam_search(head, context(), width, score=lambda x: x)
        best.append(scores[:, -1].amax(-1).mean().item())
        if width == 1:
            expected = decode_tokens(head, context(), greedy, score=lambda x: x)
            assert torch.equal(tokens, expected[0])
            torch.testing.assert_close(scores, expected[1], atol=1e-5, rtol=0)
    assert best[0] < best[2]
    assert best[1] <= best[2]


def test_a_beam_keeps_a_prefix_and_never_grows_from_bins_that_do_not_exist() -> None:
    head = head_of()
    mask = torch.arange(K) < torch.tensor([1, 2, 3])[:, None]
    tokens, _ = beam_search(head, context(), 20, score=lambda x: x, token_mask_AK=mask)
    assert (tokens < mask.sum(1)).all()
    for length in (1, 2, 3):
        prefix = torch.randint(K, (B, length))
        kept, scores = beam_search(head, context(), 4, score=lambda x: x, prefix_BP=prefix)
        assert torch.equal(kept[:, :length], prefix)
        torch.testing.assert_close(scores, head(context(), kept[:, :-1]), atol=1e-5, rtol=0)


# --- noise -------------------------------------------------------------------------------------------------------


def test_gumbel_noise_draws_from_the_softmax_of_scores_over_temperature() -> None:
    scores = torch.tensor([0.1, 0.4, 0.2, -torch.inf])
    chosen = gumbel(0.2, torch.Generator().manual_seed(0))(scores.expand(40_000, -1), 0)
    shares = torch.bincount(chosen, minlength=4) / 40_000
    torch.testing.assert_close(shares, (scores / 0.2).softmax(-1), atol=0.01, rtol=0)
    assert gumbel(0.0) is greedy


def test_the_temperature_falls_to_its_end_and_stays() -> None:
    assert [annealed(step, start=1.0, end=0.2, steps=4) for step in (0, 1, 4, 9)] == pytest.approx([1.0, 0.8, 0.2, 0.2])
    assert annealed(0, start=1.0, end=0.5, steps=0) == 0.5
