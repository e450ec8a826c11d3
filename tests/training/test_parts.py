"""Schedules, the moving average, weight decay groups: each against its formula."""

from __future__ import annotations

import math
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qseq.errors import DataError
from qseq.training import load_weights, save_tensors, tensors_of
from qseq.training.batch_seed import seed_batch
from qseq.training.moving_average import MovingAverage, target_rate_at
from qseq.training.optimiser import decay_groups, make_optimiser
from qseq.training.prefetch import Prefetcher
from qseq.training.schedules import learning_rate_at
from training.toy_problem import ToyModel, toy_config


def test_warmup_then_constant() -> None:
    config = toy_config(learning_rate=1.0, warmup_steps=4, steps=10)
    assert [learning_rate_at(step, config) for step in range(6)] == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_cosine_and_linear_end_at_zero() -> None:
    linear = toy_config(learning_rate=2.0, warmup_steps=2, steps=12, schedule="linear")
    cosine = toy_config(learning_rate=2.0, warmup_steps=2, steps=12, schedule="cosine")
    for step in range(2, 13):
        done = (step - 2) / 10
        assert learning_rate_at(step, linear) == pytest.approx(2.0 * (1 - done))
        assert learning_rate_at(step, cosine) == pytest.approx(1.0 + math.cos(math.pi * done))
    assert learning_rate_at(12, linear) == 0.0
    assert learning_rate_at(12, cosine) == pytest.approx(0.0)


def test_target_rate() -> None:
    config = toy_config(target_rate=0.1, target_every=5, target_start=10)
    rates = {step: target_rate_at(step, config) for step in range(1, 21)}
    assert {step: rate for step, rate in rates.items() if rate} == {5: 1.0, 10: 1.0, 15: 0.1, 20: 0.1}


def test_moving_average_formula_eval_mode_and_buffers() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5))
    average = MovingAverage(model)
    assert not any(module.training for module in average.model.modules())
    assert model.training
    assert not any(p.requires_grad for p in average.model.parameters())
    before = [p.clone() for p in average.model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p))
    model(torch.randn(8, 3))
    average.update(0.0)
    assert all(torch.equal(p, old) for p, old in zip(average.model.parameters(), before, strict=True))
    average.update(0.25)
    for p, old, online in zip(average.model.parameters(), before, model.parameters(), strict=True):
        torch.testing.assert_close(p, old + 0.25 * (online - old))
    for buffer, online_buffer in zip(average.model.buffers(), model.buffers(), strict=True):
        assert torch.equal(buffer, online_buffer)
    average.update(1.0)
    assert all(torch.equal(p, q) for p, q in zip(average.model.parameters(), model.parameters(), strict=True))


def test_frozen_parameters_are_shared_with_the_target_and_not_stored_twice(tmp_path: Path) -> None:
    model = ToyModel()
    model.body.requires_grad_(False)
    average = MovingAverage(model)
    assert average.model.body[0].weight is model.body[0].weight
    assert average.model.head.weight is not model.head.weight
    assert set(average.tensors()) == {"head.weight", "head.bias"}
    save_tensors(average.tensors(), tmp_path / "target.safetensors")
    average.load(tmp_path / "target.safetensors")


def test_only_matrices_decay() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words = nn.Embedding(5, 4)
            self.action_embedding = nn.Parameter(torch.zeros(2, 3, 4))
            self.map = nn.Linear(4, 4)
            self.norm = nn.LayerNorm(4)
            self.conv = nn.Conv2d(1, 1, 3)
            self.frozen = nn.Linear(4, 4).requires_grad_(False)

    model = Model()
    decayed, exempt = decay_groups(model)
    assert set(decayed) == {"map.weight", "conv.weight"}
    assert set(exempt) == {
        "words.weight", "action_embedding", "map.bias", "norm.weight", "norm.bias", "conv.bias"
    }  # fmt: skip
    optimiser = make_optimiser(model, toy_config(weight_decay=0.1))
    assert [(group["weight_decay"], len(group["params"])) for group in optimiser.param_groups] == [(0.1, 2), (0.0, 6)]


def test_tied_weights_are_stored_once_and_load_back(tmp_path: Path) -> None:
    model = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    model["two"].weight = model["one"].weight
    save_tensors(tensors_of(model), tmp_path / "model.safetensors")
    other = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    other["two"].weight = other["one"].weight
    load_weights(other, tmp_path / "model.safetensors")
    assert torch.equal(other["two"].weight, model["one"].weight)
    assert torch.equal(other["two"].bias, model["two"].bias)
    with pytest.raises(DataError, match=r"'body\.0\.weight' is missing"):
        load_weights(ToyModel(), tmp_path / "model.safetensors")


def test_prefetcher_keeps_the_order_and_stops_early() -> None:
    loaded: list[int] = []

    def load(index: int) -> int:
        loaded.append(index)
        return index

    with Prefetcher(load, iter(range(1000)), ahead=2) as prefetcher:
        assert [prefetcher.next() for _ in range(5)] == [0, 1, 2, 3, 4]
    assert len(loaded) < 12


def test_prefetcher_knows_how_long_it_was_waited_for() -> None:
    """Not when a batch is ready before it is asked for."""
    loaded, may_load = threading.Event(), threading.Event()

    def load(index: int) -> int:
        if index == 1:
            assert may_load.wait(10)
        loaded.set()
        return index

    with Prefetcher(load, iter(range(2)), ahead=1) as prefetcher:
        assert loaded.wait(10)
        prefetcher.next()
        ready = prefetcher.seconds_waited
        threading.Timer(0.3, may_load.set).start()
        prefetcher.next()
        assert prefetcher.seconds_waited - ready > 0.2


def test_what_is_drawn_for_a_batch_depends_on_seed_and_index_alone() -> None:
    def draw(seed: int, index: int) -> tuple[float, float, float, float]:
        seed_batch(seed, index)
        return random.gauss(0, 1), random.random(), float(np.random.standard_normal()), float(torch.rand(()))

    first = draw(3, 10)
    assert draw(3, 10) == first
    for other in ((3, 11), (4, 10), (2, 11), (0, 10)):
        assert not set(draw(*other)) & set(first)
