"""The prior: imitation of what turned out better than expected, and decisions by it and the values together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq import load_policy
from qseq.configuration import from_dict
from qseq.errors import ConfigError, RequestError
from qseq.networks.action_decoder import ActionDecoder
from qseq.networks.decoding import decode_tokens, greedy
from qseq.networks.guidance import GuidedDecoder
from qseq.registry import get_algorithm
from qseq.robot import QRoboticTransformer, QTransformerPolicy
from qseq.robot.config import QTransformerConfig
from qseq.robot.decoding import DecodingConfig, log_shares
from qseq.robot.description import describe_model
from qseq.robot.objective_config import QObjectiveConfig
from qseq.robot.prior import PriorGuidedDecoder
from qseq.values import UnboundedValue
from tests.robot.bandit import corner_episodes, write_view

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]], dtype=torch.bool)


def head(seed: int, *, any_order: bool = False) -> ActionDecoder:
    torch.manual_seed(seed)
    decoder = ActionDecoder(8, num_tokens=3, num_bins=4, depth=2, heads=2, dim_head=4, any_order=any_order)
    for parameter in decoder.parameters():
        parameter.data.add_(0.3 * torch.randn_like(parameter))
    return decoder.eval()


def guided(weight: float, *, any_order: bool = False) -> PriorGuidedDecoder:
    return PriorGuidedDecoder(
        head(0, any_order=any_order), head(1, any_order=any_order), values=torch.sigmoid, weight=weight,
        token_mask_TK=MASK,
    )  # fmt: skip


@torch.no_grad()
def test_scores_are_values_plus_what_the_likelihood_among_existing_bins_is_worth() -> None:
    context, prefix = torch.randn(5, 2, 8), torch.tensor([[0, 3]] * 5)
    critic, prior = head(0), head(1)
    scores = guided(0.3)(context, prefix)
    for position in range(3):
        bins = MASK[position].nonzero()[:, 0]
        likelihood = prior(context, prefix)[:, position, bins].log_softmax(-1)
        expected = critic(context, prefix)[:, position, bins].sigmoid() + 0.3 * likelihood
        torch.testing.assert_close(scores[:, position, bins], expected)
        torch.testing.assert_close(likelihood.exp().sum(-1), torch.ones(5))
    assert scores.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("any_order", [False, True])
def test_cached_decoding_is_decoding(any_order: bool) -> None:
    decoder, context = guided(0.3, any_order=any_order), torch.randn(6, 2, 8)
    order = torch.stack([torch.randperm(3) for _ in range(6)]) if any_order else None
    found = [
        decode_tokens(
            decoder, context, greedy, score=decoder.choose_by, token_mask_AK=MASK, order_BA=order, use_cache=use_cache
        )
        for use_cache in (True, False)
    ]
    assert torch.equal(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-5, rtol=0)


@torch.no_grad()
def test_with_guidance_both_heads_are_guided() -> None:
    context, prefix = torch.randn(5, 2, 2, 8), torch.tensor([[0, 3]] * 5)
    decoder = PriorGuidedDecoder(
        GuidedDecoder(head(0), 1.0), GuidedDecoder(head(1), 1.0), values=torch.sigmoid, weight=0.3, token_mask_TK=MASK
    )
    torch.testing.assert_close(decoder(context, prefix), guided(0.3)(context[:, 0], prefix))
    cached = decode_tokens(decoder, context, greedy, score=decoder.choose_by, token_mask_AK=MASK)
    uncached = decode_tokens(decoder, context, greedy, score=decoder.choose_by, token_mask_AK=MASK, use_cache=False)
    torch.testing.assert_close(cached, uncached, atol=1e-5, rtol=0)


@torch.no_grad()
def test_noise_of_the_weight_draws_the_prior_tilted_by_the_values() -> None:
    decoder, context = guided(0.5), torch.randn(1, 2, 8)
    none = torch.empty((1, 0), dtype=torch.long)
    bins = MASK[0].nonzero()[:, 0]
    prior = head(1)(context, none)[0, 0, bins].softmax(-1)
    tilted = prior * (head(0)(context, none)[0, 0, bins].sigmoid() / 0.5).exp()
    select = DecodingConfig(temperature=0.5).select(generator=torch.Generator().manual_seed(0))
    tokens, _ = decode_tokens(
        decoder, context.expand(20_000, -1, -1), select, score=decoder.choose_by, token_mask_AK=MASK
    )
    drawn = torch.bincount(tokens[:, 0], minlength=4)[bins] / 20_000
    torch.testing.assert_close(drawn, tilted / tilted.sum(), atol=0.012, rtol=0)


TINY: dict[str, Any] = {
    "actions": {"num_bins": 4},
    "network": {"dim": 32, "heads": 2, "dim_head": 16, "decoder_heads": 2, "decoder_dim_head": 16, "decoder_depth": 1},
    "objective": {"bootstrap_steps": [1], "prior_weight": 1.0},
    "training": {"steps": 300, "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 20, "trackers": []},
}


@pytest.mark.parametrize("flipped", [False, True])
def test_only_what_turned_out_well_is_imitated(tmp_path: Path, flipped: bool) -> None:
    """Of four corners as often visited the prior learns the one that paid; imitation of all would draw each."""
    write_view(tmp_path / "store", corner_episodes(2000, flipped=flipped))
    algorithm = get_algorithm("q-transformer")
    config = from_dict(algorithm.config_class, TINY)
    algorithm.train(config, data=[str(tmp_path / "store")], run=tmp_path / "run", seed=0)
    states = np.random.default_rng(7).choice([-1.0, 1.0], (200, 2)).astype(np.float32)
    # So great a weight that the values do not count.
    actions = load_policy(tmp_path / "run", prior_weight=1e3).act({"state": states}, "touch the corner")
    good = (np.sign(actions[:, 0]) == states[:, 0]) & (np.sign(actions[:, 1]) == -states[:, 0])
    if flipped:
        assert good.mean() < 0.05
    else:
        assert good.mean() > 0.95


def test_relative_values_differ_by_their_ratio(tmp_path: Path) -> None:
    """Chosen with noise as often as their power says, and with a prior by the product of both."""
    write_view(tmp_path / "store", corner_episodes(50))
    algorithm = get_algorithm("q-transformer")
    tree = TINY | {"training": TINY["training"] | {"steps": 1}}
    algorithm.train(
        from_dict(algorithm.config_class, tree), data=[str(tmp_path / "store")], run=tmp_path / "run", seed=0
    )
    state = {"state": np.zeros((20_000, 2), np.float32)}
    options: dict[str, Any] = {"relative": True, "temperature": 0.5, "seed": 0}
    for weight in (0.0, 0.5):
        policy = load_policy(tmp_path / "run", prior_weight=weight, **options)
        assert isinstance(policy, QTransformerPolicy)
        model = policy.network
        assert isinstance(model, QRoboticTransformer)
        tokens = policy.spec.tokenizer.encode(torch.from_numpy(policy.act(state, "touch the corner")))[:, 0]
        with torch.no_grad():
            context = model.encode({"state": torch.zeros(1, 1, 2)}, model.instruct(["touch the corner"]))
            none = torch.empty((1, 0), dtype=torch.long)
            values = model.values.values(model.decode(context, none))[0, 0]
            prior = model.prior_logits(context, none, None)[0, 0].softmax(-1)
        expected = values ** (1 / 0.5) * prior ** (weight / 0.5)
        drawn = torch.bincount(tokens, minlength=4) / len(tokens)
        torch.testing.assert_close(drawn, expected / expected.sum(), atol=0.012, rtol=0)


def test_relative_values_need_bounds() -> None:
    assert log_shares(torch.tensor([-1.0, 0.0, 3.0]), -1.0, 3.0).exp().tolist() == pytest.approx([1e-4, 0.25, 1.0])
    with pytest.raises(ConfigError, match=r"decoding\.relative: found true, expected false with obj"):
        QTransformerConfig(objective=QObjectiveConfig(value="unbounded"), decoding=DecodingConfig(relative=True))
    model = QRoboticTransformer(state_dim=2, num_actions=2, action_bins=4, values=UnboundedValue())
    spec = describe_model(model, {"type": "box", "low": [-1, -1], "high": [1, 1], "shape": [2]})
    with pytest.raises(RequestError, match=r"decoding\.relative: found true"):
        QTransformerPolicy(model, spec, relative=True)


def test_a_prior_that_is_not_there_or_does_not_go_with_the_rest_is_refused(tmp_path: Path) -> None:
    write_view(tmp_path / "store", corner_episodes(50))
    algorithm = get_algorithm("q-transformer")
    tree = TINY | {"objective": {"bootstrap_steps": [1]}, "training": TINY["training"] | {"steps": 1}}
    algorithm.train(
        from_dict(algorithm.config_class, tree), data=[str(tmp_path / "store")], run=tmp_path / "run", seed=0
    )
    with pytest.raises(RequestError, match=re.escape("decoding.prior_weight: found 0.1, expected 0")):
        load_policy(tmp_path / "run", prior_weight=0.1)
    with pytest.raises(ConfigError, match=re.escape("objective.prior_weight: found 1.0, expected 0")):
        QObjectiveConfig(bootstrap="max", prior_weight=1.0)
    with pytest.raises(ConfigError, match=re.escape("decoding.prior_weight: found 0.1, expected 0")):
        DecodingConfig(prior_weight=0.1, beam_width=2)
