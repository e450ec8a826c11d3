from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qseq import load_policy
from qseq.errors import RequestError
from qseq.networks.quantised import Int8Linear, quantised
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


def test_an_output_without_weights_stays_zero() -> None:
    linear = nn.Linear(3, 2, bias=False)
    nn.init.zeros_(linear.weight)
    assert torch.equal(Int8Linear(linear)(torch.randn(4, 3)), torch.zeros(4, 2))


def test_only_a_copy_is_rounded() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.GELU(), nn.Linear(4, 2)), nn.Conv1d(1, 1, 1))
    rounded = quantised(module)
    assert [type(part) for part in (rounded[0], rounded[1][1], rounded[2])] == [Int8Linear, Int8Linear, nn.Conv1d]
    assert isinstance(module[0], nn.Linear)


def test_a_rounded_policy_is_saved_smaller_and_loads_to_the_same_values(tmp_path: Path) -> None:
    policy = make_policy({"state": (5,)}, history=2)
    policy.save_pretrained(tmp_path / "float32")
    rounded = load_policy(tmp_path / "float32", weights="int8")
    rounded.save_pretrained(tmp_path / "int8")
    again = load_policy(tmp_path / "int8")
    seen = frames(policy, 6)
    actions = policy.act(seen)
    values = [one.action_values(seen, None, actions) for one in (policy, rounded, again)]  # type: ignore[attr-defined]
    np.testing.assert_array_equal(values[1], values[2])
    assert 0 < np.abs(values[0] - values[1]).max() < 0.05
    sizes = {name: (tmp_path / name / "model.safetensors").stat().st_size for name in ("float32", "int8")}
    assert sizes["int8"] < sizes["float32"]
    with pytest.raises(RequestError, match="weights: found float32, expected int8"):
        load_policy(tmp_path / "int8", weights="float32")
    with pytest.raises(RequestError, match="weights: found 'int4', expected float32 or int8"):
        load_policy(tmp_path / "float32", weights="int4")
