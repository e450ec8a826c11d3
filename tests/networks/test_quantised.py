from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qseq import load_policy
from qseq.errors import RequestError
from qseq.networks.quantised import BFloat16Linear, Int8Linear, quantised
from tests.export.policies import frames, make_policy


def test_weights_become_the_nearest_of_255_values() -> None:
    linear = nn.Linear(3, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.tensor([[127.0, -63.6, 0.4], [-2.54, 1.26, 0.0]]))
    layer = Int8Linear(linear)
    assert layer.weight_OI.tolist() == [[127, -64, 0], [-127, 63, 0]]
    torch.testing.assert_close(layer.scale_O, torch.tensor([1.0, 0.02]))
    assert (layer.weight - linear.weight).abs().div(layer.scale_O[:, None]).max() <= 0.5 + 1e-5
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), x @ layer.weight.T + linear.bias)


@pytest.mark.parametrize("rows", [1, 7, 16, 17])
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 1), (48, 5), (512, 33), (24, 2), (3, 2), (100, 64)])
def test_few_rows_are_multiplied_with_whole_numbers(rows: int, inputs: int, outputs: int) -> None:
    """Torch's product reads beyond the end of rows whose length is no multiple of 16, and may crash."""
    torch.manual_seed(0)
    layer = Int8Linear(linear := nn.Linear(inputs, outputs))
    x = torch.randn(rows, 1, inputs)
    plain = layer(x)
    torch.testing.assert_close(plain, x @ layer.weight.T + linear.bias)
    layer.quick = True
    found = layer(x)
    written_for = torch.backends.cpu.get_cpu_capability().startswith("AVX")
    assert torch.equal(found, plain) == (rows > 16 or inputs % 16 > 0 or not written_for)
    assert (found.shape, found.dtype) == (torch.Size([rows, 1, outputs]), torch.float32)
    exact = x @ layer.weight.T
    # Eight bits of what comes in, of what is added up, and of what comes out.
    allowed = 2**-8 * (x.abs() @ layer.weight.abs().T + exact.abs())
    assert ((found - linear.bias - exact).abs() <= allowed + 1e-6).all()


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_compiler_takes_the_product() -> None:
    torch.manual_seed(0)
    layer = Int8Linear(nn.Linear(32, 8))
    layer.quick = True
    with torch.no_grad():
        x = torch.randn(1, 32)
        torch.testing.assert_close(torch.compile(layer, fullgraph=True)(x), layer(x), rtol=2**-7, atol=1e-3)


def test_an_output_without_weights_stays_zero() -> None:
    linear = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(linear.weight)
    assert torch.equal(Int8Linear(linear)(torch.randn(4, 3)), torch.zeros(4, 2))


def test_only_a_copy_is_rounded() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.GELU(), nn.Linear(4, 2)), nn.Conv1d(1, 1, 1))
    rounded = quantised(module, "int8")
    assert [type(part) for part in (rounded[0], rounded[1][1], rounded[2])] == [Int8Linear, Int8Linear, nn.Conv1d]
    assert isinstance(module[0], nn.Linear)


@pytest.mark.parametrize("rows", [1, 4])
def test_products_in_bfloat16(rows: int) -> None:
    layer = BFloat16Linear(linear := nn.Linear(64, 32))
    assert (layer.weight.float() - linear.weight).abs().div(linear.weight.abs()).max() <= 2**-8
    x = torch.randn(rows, 1, 64)
    found = layer(x)
    assert (found.shape, found.dtype) == (torch.Size([rows, 1, 32]), torch.float32)
    exact = x.bfloat16().float() @ layer.weight.float().T
    torch.testing.assert_close(found - linear.bias, exact, rtol=2**-7, atol=1e-5)


@pytest.mark.parametrize("weights", ["bfloat16", "int8"])
def test_a_rounded_policy_is_saved_smaller_and_loads_to_the_same_values(weights: str, tmp_path: Path) -> None:
    policy = make_policy({"state": (5,)}, history=2)
    policy.save_pretrained(tmp_path / "float32")
    rounded = load_policy(tmp_path / "float32", weights=weights)
    rounded.save_pretrained(tmp_path / weights)
    again = load_policy(tmp_path / weights)
    seen = frames(policy, 6)
    actions = policy.act(seen)
    values = [one.action_values(seen, None, actions) for one in (policy, rounded, again)]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(values[1], values[2])
    assert 0 < np.abs(values[0] - values[1]).max() < 0.05
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("float32", weights)}
    assert sizes[weights] < sizes["float32"]
    with pytest.raises(RequestError, match=f"weights: found float32, expected {weights}"):
        load_policy(tmp_path / weights, weights="float32")
    np.testing.assert_array_equal(again.act(frames(again, 1)).shape, (1, 3))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="weights: found 'int4', expected float32, bfloat16 or int8"):
        load_policy(tmp_path / "float32", weights="int4")
