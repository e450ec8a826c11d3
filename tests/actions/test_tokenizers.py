"""Worked examples of the tokenizers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from qseq.actions import (
    ActionTokenizer,
    ChunkTokens,
    DiscreteTokens,
    MultiDiscreteTokens,
    QuantileBins,
    UniformBins,
    make_tokenizer,
)
from qseq.errors import DataError, RequestError

BOX = {"type": "box", "low": [-1, -1], "high": [1, 3], "shape": [2], "dtype": "float32"}
OPEN_BOX = {"type": "box", "low": ["-inf", -1], "high": ["inf", 1], "shape": [2], "dtype": "float32"}


def test_uniform_bins_by_hand() -> None:
    bins = UniformBins(-1, 1, 4, (1,))
    actions = torch.tensor([-1.0, -0.51, -0.5, 0.0, 0.49, 0.5, 0.99, 1.0]).unsqueeze(1)
    assert bins.encode(actions).squeeze(1).tolist() == [0, 0, 1, 2, 2, 3, 3, 3]
    assert bins.decode(torch.tensor([[0], [1], [2], [3]])).squeeze(1).tolist() == [-0.75, -0.25, 0.25, 0.75]


def test_top_bound_of_256_bins_is_bin_255() -> None:
    bins = UniformBins([-1.0] * 8, [1.0] * 8, 256, (8,))
    assert bins.encode(torch.ones(8)).tolist() == [255] * 8
    assert bins.encode(torch.full((8,), torch.inf)).tolist() == [255] * 8
    assert bins.encode(torch.full((8,), -torch.inf)).tolist() == [0] * 8


def test_uniform_bins_take_each_dimension_in_its_own_units() -> None:
    bins = UniformBins([0, -100], [1, 100], 10, (2,))
    assert bins.encode(torch.tensor([[0.55, 55.0]])).tolist() == [[5, 7]]
    assert torch.allclose(bins.decode(torch.tensor([[5, 7]])), torch.tensor([[0.55, 50.0]]))


def test_uniform_bins_too_narrow_for_float32_are_refused() -> None:
    with pytest.raises(RequestError, match="narrower"):
        UniformBins(1e6, 1e6 + 1, 256, (1,))


def test_matrix_actions_are_flattened_row_by_row() -> None:
    bins = UniformBins(np.zeros((2, 3)), np.full((2, 3), 6.0), 6, (2, 3))
    action = torch.arange(6.0).reshape(2, 3) + 0.5
    assert bins.encode(action).tolist() == [0, 1, 2, 3, 4, 5]
    assert torch.equal(bins.decode(bins.encode(action)), action)


def test_quantile_bins_hold_equal_shares() -> None:
    samples = np.random.default_rng(0).normal(size=(4000, 2)).astype(np.float32)
    bins = QuantileBins.fit(samples, 16, -6, 6)
    tokens = bins.encode(torch.from_numpy(samples))
    for dimension in range(2):
        assert torch.bincount(tokens[:, dimension], minlength=16).tolist() == pytest.approx([250] * 16, abs=2)


def test_quantile_bins_keep_actions_that_are_often_exactly_repeated() -> None:
    """A gripper that is open, closed or still: half the quantiles coincide, and these values must be kept exactly."""
    samples = np.repeat(np.float32([-1, 0, 1]), 100).reshape(-1, 1)
    bins = QuantileBins.fit(samples, 8, -1, 1)
    assert (np.diff(bins.edges) > 0).all()
    assert bins.num_bins == 8
    assert bins.decode(bins.encode(torch.from_numpy(samples))).squeeze(1).tolist() == samples[:, 0].tolist()


def test_quantile_bins_of_constant_data_are_still_bins() -> None:
    bins = QuantileBins.fit(np.zeros((5, 1), np.float32), 4, -1, 1)
    assert (np.diff(bins.edges) > 0).all()
    assert bins.decode(bins.encode(torch.zeros(1, 1))).item() == 0.0


def test_discrete_tokens_with_a_start() -> None:
    tokens = DiscreteTokens(5, start=2)
    assert (tokens.num_tokens, tokens.num_bins, tokens.action_shape, tokens.token_mask) == (1, 5, (), None)
    assert tokens.encode(torch.tensor([2, 6])).tolist() == [[0], [4]]
    assert tokens.decode(torch.tensor([[0], [4]])).tolist() == [2, 6]


def test_multi_discrete_tokens_mask_bins_that_do_not_exist() -> None:
    tokens = MultiDiscreteTokens([3, 4], [0, 10])
    assert (tokens.num_tokens, tokens.num_bins) == (2, 4)
    mask = tokens.token_mask
    assert mask is not None
    assert mask.tolist() == [[True, True, True, False], [True] * 4]
    assert tokens.encode(torch.tensor([[2, 13], [9, 99]])).tolist() == [[2, 3], [2, 3]]


def test_factory_chooses_by_space() -> None:
    assert isinstance(make_tokenizer(BOX), UniformBins)
    assert make_tokenizer(BOX).num_bins == 64
    assert isinstance(make_tokenizer({"type": "discrete", "n": 3}), DiscreteTokens)
    assert isinstance(make_tokenizer({"type": "multi_discrete", "nvec": [2, 3], "start": [0, 0]}), MultiDiscreteTokens)
    samples = np.random.default_rng(0).uniform(-1, 1, (50, 2))
    assert isinstance(make_tokenizer(BOX, num_bins=8, bins="quantile", samples=samples), QuantileBins)
    chunk = make_tokenizer(BOX, num_bins=8, chunk=3)
    assert isinstance(chunk, ChunkTokens)
    assert (chunk.action_shape, chunk.num_tokens) == ((3, 2), 6)


def test_infinite_bounds_need_samples() -> None:
    with pytest.raises(RequestError, match=r"dimensions \[0\] have infinite bounds.*pass action samples"):
        make_tokenizer(OPEN_BOX)
    tokenizer = make_tokenizer(OPEN_BOX, num_bins=4, samples=np.array([[-3.0, 0.5], [5.0, 0.5]]))
    assert isinstance(tokenizer, UniformBins)
    assert tokenizer.low.tolist() == [-3, -1]
    assert tokenizer.high.tolist() == [5, 1]


@pytest.mark.parametrize(("low", "high"), [("-inf", "inf"), ("-inf", 0), (0, "inf")])
def test_infinite_bounds_of_a_constant_dimension(low: object, high: object) -> None:
    space = {"type": "box", "low": [low], "high": [high], "shape": [1]}
    for value in (-1.0, 0.0, 7.0):
        tokenizer = make_tokenizer(space, num_bins=4, samples=np.full((3, 1), value))
        assert isinstance(tokenizer, UniformBins)
        assert (tokenizer.low < tokenizer.high).all()


@pytest.mark.parametrize(
    ("space", "options", "message"),
    [
        ({"type": "graph"}, {}, "expected box, discrete or multi_discrete"),
        ({"type": "discrete"}, {}, "'n' is missing"),
        (BOX, {"bins": "quantile"}, "need action samples"),
        (BOX, {"bins": "round"}, 'expected "uniform" or "quantile"'),
        (BOX, {"num_bins": 1}, "at least 2"),
        (BOX, {"chunk": 0}, "at least 1"),
        (BOX, {"samples": np.zeros((3, 5))}, "action samples"),
        ({**BOX, "dtype": "int64"}, {}, "multi_discrete"),
        ({**BOX, "high": [1, -1]}, {}, "low < high"),
        ({**BOX, "low": [-1, -1, -1]}, {}, "3 numbers, expected 2"),
        ({**BOX, "low": ["a", -1]}, {}, "expected numbers"),
    ],
)
def test_wrong_requests_say_what_is_wrong(space: dict, options: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message) as raised:
        make_tokenizer(space, **options)
    assert "\n" not in str(raised.value)


def test_wrong_data_says_what_is_wrong() -> None:
    bins = make_tokenizer(BOX)
    with pytest.raises(DataError, match=r"found shape \(4, 3\), expected \[\.\.\., 2\]"):
        bins.encode(torch.zeros(4, 3))
    with pytest.raises(DataError, match="NaN"):
        bins.encode(torch.tensor([0.0, torch.nan]))
    with pytest.raises(DataError, match="expected"):
        bins.decode(torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(RequestError, match="found kind 'nothing'"):
        ActionTokenizer.from_dict({"kind": "nothing"})
