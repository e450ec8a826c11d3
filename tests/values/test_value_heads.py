"""The value parameterisations: values, losses, gradients, minimisers."""

from __future__ import annotations

import math

import pytest
import torch

from qseq.errors import ConfigError
from qseq.values import (
    BoundedValue,
    CategoricalValue,
    UnboundedValue,
    ValueTransform,
    make_value_transform,
    take_tokens,
)

BOUNDED = [BoundedValue(), BoundedValue(loss_kind="bce"), BoundedValue(-2, 3, "bce"), CategoricalValue()]
ALL = [*BOUNDED, UnboundedValue(), CategoricalValue(-2, 3, 51)]


def fitted_value(transform: ValueTransform, targets: torch.Tensor) -> float:
    """The value of a single cell of logits, fitted to all targets."""
    logits = torch.zeros(transform.atom_shape, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([logits], max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        loss = transform.loss(logits.expand(len(targets), *transform.atom_shape), targets).mean()
        loss.backward()
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    return transform.values(logits.detach()).item()


def test_bounded_value_by_hand() -> None:
    transform = BoundedValue(-1, 3)
    assert transform.values(torch.tensor([0.0, 100.0, -100.0])).tolist() == [1.0, 3.0, -1.0]
    assert transform.loss(torch.tensor([0.0]), torch.tensor([0.5])).tolist() == [0.25]


def test_loss_is_measured_in_value_space_not_on_logits() -> None:
    assert BoundedValue().loss(torch.tensor([0.0]), torch.tensor([0.0])).tolist() == [0.25]


@pytest.mark.parametrize("transform", BOUNDED)
def test_targets_beyond_the_range_are_clamped(transform: ValueTransform) -> None:
    logits = torch.randn(3, *transform.atom_shape)
    for beyond, end in ((transform.high + 5, transform.high), (transform.low - 5, transform.low)):
        assert torch.equal(
            transform.loss(logits, torch.full((3,), beyond)), transform.loss(logits, torch.full((3,), end))
        )


@pytest.mark.parametrize("transform", ALL)
def test_the_minimiser_is_the_mean_of_stochastic_targets(transform: ValueTransform) -> None:
    targets = torch.tensor([0.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    assert fitted_value(transform, targets) == pytest.approx(0.25, abs=2e-4)


@pytest.mark.parametrize("transform", ALL)
def test_loss_of_a_perfect_fit_is_zero_and_no_less(transform: ValueTransform) -> None:
    targets = torch.tensor([0.25])
    if isinstance(transform, CategoricalValue):
        logits = transform.histogram(targets).clamp_min(1e-30).log()
    else:
        fraction = (0.25 - transform.low) / (transform.high - transform.low)
        logits = (
            targets if isinstance(transform, UnboundedValue) else torch.tensor([math.log(fraction / (1 - fraction))])
        )
    assert transform.values(logits).item() == pytest.approx(0.25, abs=1e-4)
    assert transform.loss(logits, targets).item() == pytest.approx(0.0, abs=1e-6)
    assert (transform.loss(torch.randn(50, *transform.atom_shape), targets) > -1e-6).all()


@pytest.mark.parametrize("target", [0.0, 0.003, 0.5, 1.0])
def test_categorical_histogram_keeps_its_mean_up_to_the_ends(target: float) -> None:
    """Cut off at the range, a target of 0 would be read back as .6 atoms, again in every backup."""
    transform = CategoricalValue(num_atoms=51)
    histogram = transform.histogram(torch.tensor([target], dtype=torch.float64))
    assert histogram.sum().item() == pytest.approx(1.0)
    assert transform.values(histogram.clamp_min(1e-300).log()).item() == pytest.approx(
        target, abs=0.003 * transform.width
    )


def test_categorical_histogram_by_hand() -> None:
    """sigma_ratio .75: the atom around the target holds erf(.5 / .75 / sqrt 2) of the mass."""
    transform = CategoricalValue(0, 1, 16, 0.75)  # 3 atoms of margin on either side: 10 atoms of width .1
    assert transform.width == pytest.approx(0.1)
    histogram = transform.histogram(torch.tensor(0.45))
    assert histogram.argmax().item() == 7
    assert histogram.max().item() == pytest.approx(math.erf(0.5 / 0.75 / math.sqrt(2)), abs=1e-5)


def test_bce_gradient_does_not_vanish_where_the_sigmoid_saturates() -> None:
    gradients = []
    for loss_kind in ("mse", "bce"):
        logits = torch.tensor([-8.0], requires_grad=True)
        BoundedValue(loss_kind=loss_kind).loss(logits, torch.tensor([1.0])).sum().backward()
        assert logits.grad is not None
        gradients.append(-logits.grad.item())
    assert gradients[0] < 1e-3
    assert gradients[1] > 0.99


@pytest.mark.parametrize("transform", ALL)
def test_float32_under_autocast(transform: ValueTransform) -> None:
    logits, targets = torch.randn(7, *transform.atom_shape), torch.rand(7)
    expected_values, expected_loss = transform.values(logits), transform.loss(logits, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values, loss = transform.values(logits), transform.loss(logits, targets)
        assert transform.values(logits.bfloat16()).dtype == torch.float32
    assert torch.equal(values, expected_values)
    assert torch.equal(loss, expected_loss)


@pytest.mark.parametrize("transform", ALL)
def test_weights_scale_each_element(transform: ValueTransform) -> None:
    logits, targets, weights = torch.randn(3, *transform.atom_shape), torch.rand(3), torch.tensor([0.0, 1.0, 2.0])
    assert torch.allclose(transform.loss(logits, targets, weights), transform.loss(logits, targets) * weights)


@pytest.mark.parametrize("atom_shape", [(), (5,)])
def test_take_tokens(atom_shape: tuple[int, ...]) -> None:
    logits, tokens = torch.randn(2, 3, 4, *atom_shape), torch.tensor([[0, 1, 3], [2, 2, 0]])
    taken = take_tokens(logits, tokens)
    assert taken.shape == (2, 3, *atom_shape)
    for row in range(2):
        for token in range(3):
            assert torch.equal(taken[row, token], logits[row, token, tokens[row, token]])


def test_make_value_transform_by_name() -> None:
    assert make_value_transform() == BoundedValue()
    assert make_value_transform("bounded", low=-1, high=2, loss="bce") == BoundedValue(-1, 2, "bce")
    assert make_value_transform("unbounded") == UnboundedValue()
    assert make_value_transform("categorical", num_atoms=31) == CategoricalValue(num_atoms=31)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "cubic"}, "expected bounded, unbounded or categorical"),
        ({"low": 1.0, "high": 1.0}, "low < high"),
        ({"high": math.inf}, "finite"),
        ({"loss": "hinge"}, "hinge"),
        ({"kind": "categorical", "num_atoms": 4}, "at least 8"),
        ({"kind": "categorical", "sigma_ratio": 0.0}, "sigma_ratio"),
    ],
)
def test_wrong_configs_say_what_is_wrong(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make_value_transform(**options)
