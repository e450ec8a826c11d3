"""qseq's side of the comparison with q-transformer answers everything it is asked, with a tiny model."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from support.scripts import ROOT, load_script

VIT = {"dim_conv_stem": 8, "dim": 8, "dim_head": 8, "depth": [1, 1], "window_size": 4, "mbconv_expansion_rate": 2,
       "mbconv_shrinkage_rate": 0.25, "dropout": 0.1}  # fmt: skip
SIZE: dict[str, Any] = {"frames": 2, "num_actions": 2, "action_bins": 8, "depth": 1, "heads": 1, "dim_head": 8,
                        "pixels": 32, "vit": VIT}  # fmt: skip


@pytest.fixture
def side(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return load_script("benchmarks/_qseq_side.py")


def test_it_answers_everything(side: ModuleType) -> None:
    qseq = side.Side()
    qseq.build(SIZE)
    flipped = qseq.flip(steps=2)
    assert flipped["rewards all 1"]["temporal_difference"] > 10 * flipped["rewards all 0"]["temporal_difference"]
    qseq.start_training(1, 1, "fp32")
    assert qseq.train()["peak_bytes"] > 1e6
    assert len(qseq.decode(batch=1, repeats=2)["seconds"]) == 2
    assert len(qseq.act(repeats=1)["seconds"]) == 1
