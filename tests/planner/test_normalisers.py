"""Normalisers: each dimension by itself, constant ones safe, inverses exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qseq.errors import DataError, RequestError
from qseq.planner.normalisers import Normaliser

KINDS = ["gaussian", "limits", "quantile"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), offset=st.floats(-1e3, 1e3), spread=st.floats(1e-3, 1e3))
def test_inverse_is_exact(kind, seed: int, offset: float, spread: float) -> None:
    samples_ND = offset + spread * torch.randn(
        50, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
    )
    normaliser = Normaliser.fit(samples_ND, kind)
    beyond_ND = samples_ND.float() * 1.5
    found = normaliser.denormalise(normaliser.normalise(beyond_ND))
    torch.testing.assert_close(found, beyond_ND, rtol=1e-6, atol=1e-6 * (abs(offset) + 10 * spread))


def test_every_dimension_has_its_own_statistics() -> None:
    """One mean and deviation for all dimensions was a defect of the known pipeline."""
    samples_ND = torch.tensor([[0.0, 1000.0], [2.0, 3000.0]])
    normaliser = Normaliser.fit(samples_ND, "gaussian")
    torch.testing.assert_close(normaliser.normalise(samples_ND), torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))


def test_hand_worked_scales() -> None:
    samples_ND = torch.arange(101.0).unsqueeze(1)
    limits, quantile = Normaliser.fit(samples_ND, "limits"), Normaliser.fit(samples_ND, "quantile")
    assert limits.normalise(torch.tensor([[0.0], [50.0], [100.0]])).flatten().tolist() == [-1.0, 0.0, 1.0]
    torch.testing.assert_close(quantile.normalise(torch.tensor([[1.0], [99.0]])).flatten(), torch.tensor([-1.0, 1.0]))
    assert quantile.normalise(torch.tensor([[100.0]])).item() > 1.0, "what lies beyond the quantiles is kept"


@pytest.mark.parametrize("kind", KINDS)
def test_constant_dimensions_are_safe(kind) -> None:
    # A constant far from 0 has a deviation of rounding, not of exactly 0.
    samples_ND = torch.stack([torch.randn(1000), torch.full((1000,), 1234.567), torch.zeros(1000)], dim=1)
    normaliser = Normaliser.fit(samples_ND, kind)
    normalised = normaliser.normalise(samples_ND)
    assert normalised.isfinite().all()
    assert normalised[:, 1:].abs().max() < 1e-3
    moved = samples_ND[:1] + torch.tensor([0.0, 1.0, 1.0])
    assert normaliser.normalise(moved)[0, 1:].tolist() == pytest.approx([1.0, 1.0], abs=1e-3)


def test_bad_samples_are_named() -> None:
    with pytest.raises(DataError, match=r"nan in dimension 1 of sample 2"):
        Normaliser.fit(torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, float("nan")]]))
    with pytest.raises(DataError, match="found no sample"):
        Normaliser.fit(torch.zeros(0, 2))
    with pytest.raises(RequestError, match="expected gaussian, limits or quantile"):
        Normaliser.fit(torch.zeros(3, 2), "minmax")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="not positive"):
        Normaliser(torch.zeros(2), torch.tensor([1.0, 0.0]))


def test_gradients_pass_back_to_plans() -> None:
    plans = torch.zeros(2, requires_grad=True)
    Normaliser(torch.zeros(2), torch.tensor([2.0, 3.0])).denormalise(plans).sum().backward()
    assert plans.grad is not None
    assert plans.grad.tolist() == [2.0, 3.0]


def test_parts() -> None:
    whole = Normaliser(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([4.0, 5.0, 6.0]))
    assert whole.part([2, 0]).normalise(torch.tensor([9.0, 5.0])).tolist() == [1.0, 1.0]
