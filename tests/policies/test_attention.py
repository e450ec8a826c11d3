"""Attention over cameras' frames: places count as much as their tokens do for the scores."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from qseq.networks.action_network import ActionNetwork
from qseq.networks.camera import CameraEncoder
from qseq.networks.text import Instruction
from qseq.networks.vision import VisionConfig
from qseq.policies.attention import camera_attention

B, F, TOKENS, D = 2, 3, 2, 4


class OneCamera:
    """Scores are sums of the newest frame's tokens with a weight each; token s looks at position `looks_at[s]`."""

    def __init__(self, token_weights: list[float], looks_at: list[int]) -> None:
        encoder = CameraEncoder((3, 8, 8), D, VisionConfig(dim=4, depth=(1,), tokens=TOKENS), conditional=False)
        height, width = encoder.tower.feature_size(8, 8)  # type: ignore[operator]
        places_SP = torch.eye(height * width)[looks_at]
        encoder.token_learner.weights = lambda maps, conditions: places_SP.expand(len(maps), -1, -1)  # type: ignore[method-assign]
        self.encoder = SimpleNamespace(places=lambda seen, told: {"image": encoder.places(seen["image"], told)})
        self.weights_S = torch.tensor(token_weights)

    def see(self, observation: Mapping[str, Tensor], instruction: Instruction) -> dict[str, Tensor]:
        return {"image": torch.ones(B, F, TOKENS, D)}

    def encode(self, observation: Any, instruction: Any, seen: Mapping[str, Tensor]) -> Tensor:
        return seen["image"]

    def decode(self, context_BFSD: Tensor, prefix_BP: Tensor) -> Tensor:
        # Older frames count too, and must not show.
        score_B = (context_BFSD.sum(-1)[:, -1] * self.weights_S).sum(-1) + context_BFSD[:, 0].sum((-1, -2))
        return torch.stack((score_B, torch.zeros_like(score_B)), -1)[:, None]


@pytest.mark.parametrize(
    ("token_weights", "expected"), [([0.0, 2.0], [0.0, 1.0]), ([3.0, -1.0], [0.75, 0.25]), ([5.0, 0.0], [1.0, 0.0])]
)
def test_tokens_count_by_their_part_in_the_score_of_what_was_done(
    token_weights: list[float], expected: list[float]
) -> None:
    network = cast(ActionNetwork, OneCamera(token_weights, looks_at=[0, 3]))
    instruction = SimpleNamespace(summary_BD=torch.zeros(B, D))
    found = camera_attention(
        network,
        {"image": torch.zeros(B, F, 3, 8, 8)},
        cast(Instruction, instruction),
        torch.zeros(B, 1, dtype=torch.long),
        lambda logits: logits,
    )["image"]
    torch.testing.assert_close(found.flatten(1)[:, [0, 3]], torch.tensor([expected] * B))
    torch.testing.assert_close(found.sum((1, 2)), torch.ones(B))


def test_without_cameras_there_is_nothing_to_look_at() -> None:
    blind = SimpleNamespace(see=lambda observation, instruction: {})
    nothing: Any = None
    found = camera_attention(cast(ActionNetwork, blind), {}, nothing, torch.zeros(1, 1), lambda logits: logits)
    assert found == {}
