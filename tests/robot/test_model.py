"""QRoboticTransformer through its public methods."""

from __future__ import annotations

import pytest
import torch

from qseq import QRoboticTransformer
from qseq.values import CategoricalValue

B, A, K = 5, 3, 8


def make_model(**options: object) -> QRoboticTransformer:
    torch.manual_seed(0)
    sizes = {"state_dim": 4, "num_actions": A, "action_bins": K, "dim": 16, "heads": 2, "dim_head": 8}
    return QRoboticTransformer(**(sizes | options)).eval()  # type: ignore[arg-type]


def test_forward_gives_q_of_every_bin_also_for_a_prefix() -> None:
    model = make_model()
    state, actions = torch.randn(B, 4), torch.randint(0, K, (B, A))
    whole = model(state, ["push"] * B, actions)
    assert whole.shape == (B, A, K)
    assert ((whole > 0) & (whole < 1)).all()
    torch.testing.assert_close(model(state, ["push"] * B, actions[:, :1]), whole[:, :2])
    torch.testing.assert_close(model(state, text_embeds=model.embed_texts(["push"]), actions=actions), whole)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("use_cache", [False, True])
def test_optimal_actions_are_the_trained_heads_argmax_and_keep_a_prefix(tied: bool, use_cache: bool) -> None:
    model = make_model(weight_tie_action_bin_embed=tied)
    state = torch.randn(B, 4)
    prefix = torch.full((B, 1), 5)
    tokens, values = model.get_optimal_actions(state, actions=prefix, return_q_values=True, use_cache=use_cache)
    assert (tokens[:, 0] == 5).all()
    torch.testing.assert_close(values, model(state, actions=tokens), atol=1e-5, rtol=0)
    assert torch.equal(tokens[:, 1:], values.argmax(-1)[:, 1:])


def test_optimal_actions_are_greedy_by_default_and_random_only_when_asked() -> None:
    model = make_model()
    state = torch.randn(1, 4).expand(400, -1)
    greedy = model.get_optimal_actions(state)
    assert (greedy == greedy[0]).all()
    noisy = model.get_optimal_actions(state, prob_random_action=0.5, generator=torch.Generator().manual_seed(0))
    changed = (noisy != greedy).float().mean(0)
    assert changed[0].item() == pytest.approx(0.5 * (K - 1) / K, abs=0.1)
    assert not (noisy != greedy).all(1).all()  # single dimensions, not whole decisions


def test_epsilon_greedy_actions_are_random_by_whole_decisions() -> None:
    model = make_model()
    state = torch.randn(1, 4).expand(600, -1)
    best = model.get_optimal_actions(state)
    assert torch.equal(model.get_actions(state), best)
    mixed = model.get_actions(state, prob_random_action=0.4, generator=torch.Generator().manual_seed(0))
    kept = (mixed == best).all(1).float().mean().item()
    assert kept == pytest.approx(0.6, abs=0.08)
    random = model.get_random_actions(5000, torch.Generator().manual_seed(0))
    assert random.shape == (5000, A)
    assert random.min() == 0
    assert random.max() == K - 1  # every bin, and none beyond the last


def test_history_and_categorical_values() -> None:
    model = make_model(history=3, values=CategoricalValue(0.0, 1.0, 21))
    values = model(torch.randn(B, 3, 4), actions=torch.randint(0, K, (B, A)))
    assert values.shape == (B, A, K)


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="state_dim or fields"):
        QRoboticTransformer()
    with pytest.raises(ValueError, match="attn_width"):
        make_model(q_head_attn_kwargs={"attn_width": 3})
