"""Small policies whose weights are random everywhere, so that no part of a network is an identity."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from qseq.actions import make_tokenizer
from qseq.configuration import from_dict
from qseq.networks.action_network import NetworkConfig
from qseq.policies import TokenPolicySpec
from qseq.robot import QTransformerPolicy

BOX = {"type": "box", "low": [-1.0] * 3, "high": [1.0] * 3, "shape": [3], "dtype": "float32"}
DISCRETE = {"type": "discrete", "n": 5, "start": 2}
SIZES = {"dim": 16, "heads": 2, "dim_head": 8, "decoder_heads": 2, "decoder_dim_head": 8, "decoder_depth": 1}
CAMERA: dict[str, Any] = {
    "fields": {"front/image": (3, 24, 24), "robot.state": (3,)},
    "history": 2,
    "crop": 16,
    "vision": {"dim": 4, "depth": [1], "tokens": 2},
    "text": {"film": True, "cross_attention": True},
}


def make_policy(
    fields: Mapping[str, tuple[int, ...]],
    *,
    space: Mapping[str, Any] = BOX,
    history: int = 1,
    chunk: int = 1,
    crop: int = 0,
    decoding: Mapping[str, Any] | None = None,
    spec_options: Mapping[str, Any] | None = None,
    **network: Any,
) -> QTransformerPolicy:
    extra = {
        "value": {"kind": "bounded"},
        "initial_value": 0.05,
        "value_folds": 1,
        "prior": "prior_weight" in (decoding or {}),
        "decoding": dict(decoding or {}),
    }
    spec = TokenPolicySpec(
        network=from_dict(NetworkConfig, SIZES | network),
        fields=dict(fields),
        history=history,
        tokenizer=make_tokenizer(space, num_bins=6, chunk=chunk),
        action_space=dict(space),
        extra=extra,
        crop=crop,
        **dict(spec_options or {}),
    )
    torch.manual_seed(0)
    built = QTransformerPolicy.build_network(spec, spec.blank_layouts())
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return QTransformerPolicy(built, spec)


def frames(policy: QTransformerPolicy, rows: int, seed: int = 0) -> dict[str, np.ndarray]:
    """One frame of each field for each row."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 256, (rows, *shape)).astype(np.uint8)
        if len(shape) == 3
        else random.normal(size=(rows, *shape)).astype(np.float32)
        for name, shape in policy.observation_fields.items()
    }
