"""Properties every tokenizer must have, for any bounds, bin counts and data."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from qseq.actions import (
    ActionTokenizer,
    ChunkTokens,
    DiscreteTokens,
    MultiDiscreteTokens,
    QuantileBins,
    UniformBins,
)

floats = st.floats(-100, 100, width=32)
shapes = st.sampled_from([(), (1,), (3,), (2, 2)])


@st.composite
def uniform_bins(draw: st.DrawFn) -> UniformBins:
    shape = draw(shapes)
    low = draw(hnp.arrays(np.float64, shape, elements=floats))
    span = draw(hnp.arrays(np.float64, shape, elements=st.floats(0.25, 50, width=32)))
    return UniformBins(low, low + span, draw(st.integers(2, 256)), shape)


@st.composite
def quantile_bins(draw: st.DrawFn) -> QuantileBins:
    shape = draw(shapes)
    low = draw(st.floats(-10, 0, width=32))
    high = draw(st.floats(0.5, 10, width=32))
    # Few distinct values: quantiles coincide, some of them on the bounds, some beyond.
    values = st.sampled_from([low, high, 0.0, 0.25]) | st.floats(-11, 11, width=32)
    samples = draw(hnp.arrays(np.float32, (draw(st.integers(1, 30)), *shape), elements=values))
    return QuantileBins.fit(samples, draw(st.integers(2, 40)), low, high)


discrete_tokens = st.builds(DiscreteTokens, st.integers(1, 20), st.integers(-5, 5))
multi_discrete_tokens = st.lists(st.tuples(st.integers(1, 9), st.integers(-3, 3)), min_size=1, max_size=4).map(
    lambda pairs: MultiDiscreteTokens([n for n, _ in pairs], [start for _, start in pairs])
)
single = st.one_of(uniform_bins(), quantile_bins(), discrete_tokens, multi_discrete_tokens)
tokenizers = st.one_of(single, st.builds(ChunkTokens, single, st.integers(1, 3)))


def every_token(tokenizer: ActionTokenizer) -> torch.Tensor:
    """[K, A] rows in which every bin of every token occurs."""
    bins = torch.tensor(tokenizer.bins_per_token)
    return torch.minimum(torch.arange(tokenizer.num_bins).unsqueeze(1), bins - 1)


@settings(deadline=None, max_examples=150)
@given(tokenizers)
def test_every_token_survives_the_round_trip(tokenizer: ActionTokenizer) -> None:
    tokens = every_token(tokenizer)
    actions = tokenizer.decode(tokens)
    assert actions.shape == (tokenizer.num_bins, *tokenizer.action_shape)
    assert torch.equal(tokenizer.encode(actions), tokens)
    batched = tokens.reshape(1, *tokens.shape)
    assert torch.equal(tokenizer.encode(tokenizer.decode(batched)), batched)


@settings(deadline=None, max_examples=100)
@given(tokenizers)
def test_json_description_rebuilds_the_same_tokenizer(tokenizer: ActionTokenizer) -> None:
    rebuilt = ActionTokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert type(rebuilt) is type(tokenizer)
    assert rebuilt == tokenizer
    assert rebuilt.action_shape == tokenizer.action_shape
    assert torch.equal(rebuilt.decode(every_token(tokenizer)), tokenizer.decode(every_token(tokenizer)))


@settings(deadline=None, max_examples=100)
@given(tokenizers, st.sampled_from([-1e30, 1e30, -1e3, 1e3]))
def test_no_action_gives_a_bin_that_does_not_exist(tokenizer: ActionTokenizer, value: float) -> None:
    """Earlier code drew bin 256 of 256."""
    discrete = tokenizer.decode(every_token(tokenizer)).dtype == torch.int64
    action = torch.full(tokenizer.action_shape, int(np.sign(value) * 1000) if discrete else value)
    tokens = tokenizer.encode(action)
    expected = torch.tensor(tokenizer.bins_per_token) - 1 if value > 0 else torch.zeros(tokenizer.num_tokens)
    assert torch.equal(tokens, expected.long())


@settings(deadline=None, max_examples=150)
@given(uniform_bins(), st.data())
def test_uniform_error_is_at_most_half_a_bin(tokenizer: UniformBins, data: st.DataObject) -> None:
    fraction = data.draw(hnp.arrays(np.float64, (5, tokenizer.num_tokens), elements=st.floats(0, 1)))
    fraction[0], fraction[1] = 0.0, 1.0  # the bounds themselves
    values = torch.from_numpy(tokenizer.low + fraction * (tokenizer.high - tokenizer.low))
    actions = values.reshape(5, *tokenizer.action_shape)
    error = (tokenizer.decode(tokenizer.encode(actions)).double() - actions).abs().reshape(5, -1)
    rounding = 1e-6 * np.maximum(1.0, np.maximum(np.abs(tokenizer.low), np.abs(tokenizer.high)))
    assert (error.numpy() <= tokenizer.width / 2 + rounding).all()


@settings(deadline=None, max_examples=150)
@given(quantile_bins(), st.data())
def test_quantile_error_is_at_most_the_bin(tokenizer: QuantileBins, data: st.DataObject) -> None:
    low, high = tokenizer.edges[:, 0], tokenizer.edges[:, -1]
    fraction = data.draw(hnp.arrays(np.float32, (5, tokenizer.num_tokens), elements=st.floats(0, 1, width=32)))
    fraction[0], fraction[1] = 0.0, 1.0
    actions = np.clip(low + fraction * (high - low), low, high)
    tokens = tokenizer.encode(torch.from_numpy(actions).reshape(5, *tokenizer.action_shape))
    decoded = tokenizer.decode(tokens).reshape(5, -1).numpy()
    index = np.arange(tokenizer.num_tokens)
    left, right = tokenizer.edges[index, tokens], tokenizer.edges[index, tokens + 1]
    assert ((actions >= left) & (actions <= right)).all()
    assert ((decoded >= left) & (decoded <= right)).all()


@settings(deadline=None, max_examples=150)
@given(quantile_bins())
def test_quantile_bins_have_positive_width_and_span_the_bounds(tokenizer: QuantileBins) -> None:
    assert (np.diff(tokenizer.edges, axis=1) > 0).all()
    assert tokenizer.edges.shape == (tokenizer.num_tokens, tokenizer.num_bins + 1)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_chunk_tokens_are_those_of_its_actions_in_order(steps: int) -> None:
    base = UniformBins([-1, 0], [1, 4], 16, (2,))
    chunk = ChunkTokens(base, steps)
    actions = torch.rand(7, steps, 2) * 2
    assert chunk.num_tokens == 2 * steps
    assert torch.equal(
        chunk.encode(actions), torch.cat([base.encode(actions[:, step]) for step in range(steps)], dim=-1)
    )
