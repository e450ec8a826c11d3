"""The action-token network: caching, prefixes, causality, tied outputs."""

from __future__ import annotations

import pytest
import torch

from qseq.networks.action_network import ActionNetwork, NetworkConfig
from qseq.networks.attention import attend
from qseq.networks.decoding import decode_tokens, epsilon_greedy, greedy, sample
from qseq.networks.observation import FieldLayout
from qseq.networks.text import word_ids

A, K, B = 5, 7, 6


def make_network(history: int = 1, outputs_per_bin: int = 1, **config: object) -> ActionNetwork:
    torch.manual_seed(0)
    layout = FieldLayout(shape=(3,))
    network = ActionNetwork(
        NetworkConfig(dim=16, heads=2, dim_head=8, decoder_heads=2, decoder_dim_head=8, **config),  # type: ignore[arg-type]
        {"state": layout},
        num_tokens=A,
        num_bins=K,
        history=history,
        outputs_per_bin=outputs_per_bin,
    )
    return network.eval()


def context_of(network: ActionNetwork, history: int = 1) -> torch.Tensor:
    torch.manual_seed(1)
    return network.encode({"state": torch.randn(B, history, 3)}, network.instruct(["push the puck"] * B))


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("prefix_length", [0, 1, 3, 5])
def test_cached_decoding_equals_uncached_and_keeps_the_prefix(tied: bool, prefix_length: int) -> None:
    network = make_network(tied=tied)
    context = context_of(network)
    prefix = torch.randint(0, K, (B, prefix_length))
    results = [
        decode_tokens(network.decoder, context, greedy, score=lambda x: x, prefix_BP=prefix, use_cache=use_cache)
        for use_cache in (True, False)
    ]
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1], atol=1e-5, rtol=0)
    assert torch.equal(results[0][0][:, :prefix_length], prefix)
    # The scores of every position, not only of the last, are those of one pass over the whole decision.
    whole = network.decode(context, results[0][0][:, :-1])
    torch.testing.assert_close(results[0][1], whole, atol=1e-5, rtol=0)
    chosen = results[0][1].argmax(-1)[:, prefix_length:]
    assert torch.equal(results[0][0][:, prefix_length:], chosen)


def test_a_token_changes_only_the_scores_after_it() -> None:
    network = make_network()
    context = context_of(network)
    tokens = torch.randint(0, K, (B, A - 1))
    changed = tokens.clone()
    changed[:, 2] = (changed[:, 2] + 1) % K
    before, after = network.decode(context, tokens), network.decode(context, changed)
    torch.testing.assert_close(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_tied_scores_are_products_with_the_embeddings_of_the_same_bins() -> None:
    network = make_network(tied=True)
    decoder = network.decoder
    with torch.no_grad():
        decoder.bin_embedding_AKD.zero_()
        decoder.bin_embedding_AKD[0, 4] = 10.0
        decoder.norm.weight.zero_()
        decoder.norm.bias.fill_(1.0)
    scores = network.decode(context_of(network), torch.zeros(B, 0, dtype=torch.long))
    assert (scores[:, 0].argmax(-1) == 4).all()


def test_categorical_outputs_have_one_more_dimension() -> None:
    network = make_network(outputs_per_bin=11)
    assert network.decode(context_of(network), torch.zeros(B, 2, dtype=torch.long)).shape == (B, 3, K, 11)


def test_earlier_frames_do_not_see_later_ones() -> None:
    network = make_network(history=3, encoder_depth=2)
    frames = torch.randn(B, 3, 3)
    later = frames.clone()
    later[:, 2] += 1.0
    instruction = network.instruct([""] * B)
    before, after = (network.encode({"state": f}, instruction) for f in (frames, later))
    torch.testing.assert_close(before[:, :3], after[:, :3])  # instruction, first and second frame
    assert not torch.allclose(before[:, 3], after[:, 3])


def test_bins_that_do_not_exist_are_never_chosen() -> None:
    network = make_network()
    mask = torch.arange(K) < torch.tensor([2, 7, 3, 1, 7])[:, None]
    for select in (greedy, sample(5.0, torch.Generator().manual_seed(0)), epsilon_greedy(1.0)):
        tokens, _ = decode_tokens(network.decoder, context_of(network), select, score=lambda x: x, token_mask_AK=mask)
        assert (tokens < mask.sum(-1)).all()


def test_epsilon_randomises_single_tokens_at_the_asked_rate() -> None:
    scores = torch.zeros(20_000, K)
    scores[:, 0] = 1.0
    chosen = epsilon_greedy(0.35, torch.Generator().manual_seed(0))(scores, 0)
    assert (chosen != 0).float().mean().item() == pytest.approx(0.35 * (K - 1) / K, abs=0.015)


def test_instructions_are_told_apart_and_independent_of_padding() -> None:
    network = make_network()
    alone = network.instruct(["push the puck"]).summary_BD
    together = network.instruct(["push the puck", "open the drawer slowly and carefully", ""]).summary_BD
    torch.testing.assert_close(alone[0], together[0])
    assert not torch.allclose(together[0], together[1])
    assert torch.equal(together[2], network.encoder.instruction.null_D)
    assert word_ids(["", ""], vocabulary=10).shape == (2, 1)


def test_word_order_matters() -> None:
    network = make_network()
    first, second = network.instruct(["red left of blue", "blue left of red"]).summary_BD
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("causal", [False, True])
def test_plain_attention_in_bfloat16_equals_the_fused_one(causal: bool) -> None:
    torch.manual_seed(0)
    query, key, value = (torch.randn(B, 2, 5, 8).bfloat16() for _ in range(3))
    mask = None if causal else torch.rand(5, 5) > 0.3
    if mask is not None:
        mask.fill_diagonal_(True)
    plain = attend(query, key, value, mask_TS=mask, causal=causal)
    fused = attend(query.float(), key.float(), value.float(), mask_TS=mask, causal=causal)
    torch.testing.assert_close(plain.float(), fused, atol=3e-2, rtol=3e-2)
