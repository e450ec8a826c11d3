"""Compiled decoding. torch traces it here as for any compiler, but runs what it traced: no compiler is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq import load_policy
from qseq.errors import RequestError
from qseq.imitation import CloningPolicy
from qseq.policies import compiled
from tests.export.policies import frames, make_policy


@pytest.fixture(autouse=True)
def traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


@pytest.mark.parametrize(
    "network",
    [{}, {"head": {"dimension_order": "learned"}}, {"decoder_depth": 2, "tied": True, "head": {"dueling": True}}],
    ids=["plain", "chooses its order", "dueling, tied"],
)
def test_compiled_decisions_are_the_same(network: dict[str, Any], tmp_path: Path) -> None:
    policy = make_policy({"state": (5,)}, **network)
    policy.save_pretrained(tmp_path)
    fast = load_policy(tmp_path, compiled=True)
    for rows in (1, 3, 4, 1, 5):
        seen = frames(policy, rows)
        np.testing.assert_array_equal(fast.act(seen), policy.act(seen))
    # One program for a single row, one for any number of them.
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2


def test_a_cloning_policy_compiles_too() -> None:
    policy = make_policy({"state": (5,)})
    slow, fast = (CloningPolicy(policy.network, policy.spec, compiled=choice) for choice in (False, True))
    seen = frames(policy, 2)
    np.testing.assert_array_equal(fast.act(seen), slow.act(seen))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("options", [{"temperature": 0.1}, {"beam_width": 2}, {"epsilon": 0.1}])
def test_only_greedy_decisions_are_compiled(options: dict[str, Any], tmp_path: Path) -> None:
    policy = make_policy({"state": (5,)})
    policy.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match="compiled: found true, expected false for a policy that samples"):
        load_policy(tmp_path, compiled=True, **options).act(frames(policy, 1))


def test_what_torch_cannot_compile_is_one_clear_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_compiler(*_: Any) -> None:
        raise RuntimeError("no g++")

    monkeypatch.setattr(compiled, "BACKEND", no_compiler)
    policy = make_policy({"state": (5,)})
    policy.save_pretrained(tmp_path)
    with pytest.raises(RequestError, match=r"compiled: .*no g\+\+.* C\+\+ compiler; load the policy with") as caught:
        load_policy(tmp_path, compiled=True).act(frames(policy, 1))
    assert "\n" not in str(caught.value)
