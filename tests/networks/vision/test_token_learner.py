"""Tokens are convex combinations of the map's feature vectors, and where they look follows from what is there."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from qseq.networks.vision import TokenLearner

B, D, HEIGHT, WIDTH, S = 3, 6, 4, 5, 8


def test_tokens_are_convex_combinations_of_positions() -> None:
    torch.manual_seed(0)
    learner = TokenLearner(D)
    x_BDhw = torch.randn(B, D, HEIGHT, WIDTH)
    tokens_BSD, weights_BSP = learner(x_BDhw), learner.weights(x_BDhw)
    assert tokens_BSD.shape == (B, S, D)
    assert weights_BSP.shape == (B, S, HEIGHT * WIDTH)
    assert (weights_BSP >= 0).all()
    torch.testing.assert_close(weights_BSP.sum(-1), torch.ones(B, S))
    # By definition, position by position.
    expected_BSD = torch.zeros(B, S, D)
    for row in range(HEIGHT):
        for column in range(WIDTH):
            expected_BSD += weights_BSP[:, :, row * WIDTH + column, None] * x_BDhw[:, None, :, row, column]
    torch.testing.assert_close(tokens_BSD, expected_BSD)


def test_a_token_can_pick_one_position() -> None:
    learner = TokenLearner(D, num_output_tokens=2, num_layers=1)
    (weighting,) = learner.to_logits
    assert isinstance(weighting, nn.Linear)
    with torch.no_grad():
        weighting.weight.zero_()
        weighting.weight[1, 3] = 100.0  # the second token looks for feature 3
    x_BDhw = torch.rand(1, D, HEIGHT, WIDTH) * 0.1
    x_BDhw[0, 3, 2, 1] = 5.0
    tokens_BSD = learner(x_BDhw)
    torch.testing.assert_close(tokens_BSD[0, 0], x_BDhw[0].mean((1, 2)))
    torch.testing.assert_close(tokens_BSD[0, 1], x_BDhw[0, :, 2, 1])


def test_the_order_of_positions_does_not_matter() -> None:
    torch.manual_seed(0)
    learner = TokenLearner(D)
    x_BDhw = torch.randn(B, D, HEIGHT, WIDTH)
    torch.testing.assert_close(learner(x_BDhw.flip(2, 3)), learner(x_BDhw))


def test_gradient_reaches_every_parameter_and_tokens_differ() -> None:
    torch.manual_seed(0)
    learner = TokenLearner(D, num_output_tokens=3, ff_mult=4, num_layers=3)
    assert [module.out_features for module in learner.to_logits if isinstance(module, nn.Linear)] == [24, 24, 3]
    tokens_BSD = learner(torch.randn(B, D, HEIGHT, WIDTH))
    assert (tokens_BSD[:, 0] - tokens_BSD[:, 1]).abs().max() > 1e-3
    tokens_BSD.square().sum().backward()
    without = [name for name, p in learner.named_parameters() if p.grad is None or not (p.grad.abs() > 1e-9).any()]
    assert without == []


def test_images_do_not_mix() -> None:
    torch.manual_seed(0)
    learner = TokenLearner(D)
    x_BDhw = torch.randn(B, D, HEIGHT, WIDTH)
    torch.testing.assert_close(learner(x_BDhw)[1:2], learner(x_BDhw[1:2]))


@pytest.mark.parametrize("changes", [{"num_output_tokens": 0}, {"num_layers": 0}])
def test_sizes_that_make_no_sense_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        TokenLearner(D, **changes)


def test_an_instruction_names_what_tokens_look_at() -> None:
    torch.manual_seed(0)
    learner = TokenLearner(D, num_output_tokens=1, condition_dim=2)
    assert learner.to_queries is not None
    with torch.no_grad():
        learner.to_logits[-1].weight.zero_()
        for weight in (learner.to_queries.weight, learner.to_keys.weight, learner.to_keys.bias):
            weight.zero_()
        for instruction in range(2):  # the first asks for feature 0, the second for feature 1
            learner.to_queries.weight[instruction, instruction] = 100.0
            learner.to_keys.weight[instruction, instruction] = 100.0
    x_BDhw = torch.zeros(1, D, HEIGHT, WIDTH)
    x_BDhw[0, 0, 1, 2] = x_BDhw[0, 1, 3, 4] = 1.0
    for instruction, (row, column) in enumerate([(1, 2), (3, 4)]):
        weights_P = learner.weights(x_BDhw, torch.eye(2)[instruction : instruction + 1])[0, 0]
        assert weights_P[row * WIDTH + column] > 0.99
    uniform_P = learner.weights(x_BDhw)[0, 0]
    torch.testing.assert_close(uniform_P, torch.full_like(uniform_P, 1 / len(uniform_P)))


def test_sharp_tokens_begin_with_few_positions_of_their_own() -> None:
    x_BDhw = torch.randn(1, 64, 7, 7, generator=torch.Generator().manual_seed(0))
    effective = {}
    for sharpness in (1.0, 5.0):
        torch.manual_seed(0)
        learner = TokenLearner(64, num_output_tokens=16, num_layers=1, initial_sharpness=sharpness)
        weights_SP = learner.weights(x_BDhw)[0].detach()
        effective[sharpness] = float((-(weights_SP * weights_SP.log()).sum(1)).exp().mean())
    assert effective[1.0] > 35  # of 49
    assert effective[5.0] < 15
