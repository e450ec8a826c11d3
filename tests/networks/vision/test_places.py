"""Positions of a camera's map that can be told apart where nothing else tells them."""

from __future__ import annotations

import torch
from torch import Tensor

from qseq.networks.camera import CameraEncoder
from qseq.networks.text import Instruction
from qseq.networks.vision import VisionConfig


def found(learn_places: bool) -> Tensor:
    """For each position of a blank picture's map, whether there are logits, linear in features, that find it: `[P]`."""
    torch.manual_seed(0)
    config = VisionConfig(dim=64, depth=(0,), patch=8, learn_places=learn_places)
    camera = CameraEncoder((3, 56, 56), 8, config)
    with torch.no_grad():
        maps_PD = camera._maps(torch.full((1, 1, 3, 56, 56), 0.4), torch.zeros(1, 8))[0].flatten(1).T
    logits_PP = maps_PD @ torch.linalg.pinv(maps_PD, rtol=1e-3)
    return logits_PP.argmax(0) == torch.arange(len(maps_PD))


def test_any_position_can_be_looked_at_from_the_start() -> None:
    assert found(learn_places=True).all()
    # Rows and columns as numbers: what is looked for in the middle is found at the rim.
    assert found(learn_places=False).float().mean() < 0.2


def test_places_are_learnt_and_added_for_positions_that_are_tokens_themselves() -> None:
    torch.manual_seed(0)
    camera = CameraEncoder((3, 16, 24), 8, VisionConfig(dim=4, depth=(0,), patch=8, tokens=0, learn_places=True))
    assert camera.places_PD is not None
    assert camera.places_PD.shape == (6, 4)
    frames, instruction = torch.rand(2, 1, 3, 16, 24), Instruction(torch.randn(2, 8))
    before = camera(frames, instruction)
    before.sum().backward()
    assert camera.places_PD.grad is not None
    assert (camera.places_PD.grad != 0).any(1).all()
    with torch.no_grad():
        camera.places_PD[4] += 1
    changed = (camera(frames, instruction) != before).flatten(3).any(3)
    assert changed[:, 0].tolist() == [[False, False, False, False, True, False]] * 2
