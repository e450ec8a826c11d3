"""Every fold is a network of its own."""

from __future__ import annotations

import torch

from qseq.networks.observation import FieldLayout
from qseq.networks.state_values import FoldedStateValue
from qseq.networks.text import Instruction

B, F, D, K = 5, 2, 8, 3


def value(*, camera: bool = False) -> FoldedStateValue:
    fields = {"state": FieldLayout(shape=(4,))} | ({"image": FieldLayout(shape=(3, 8, 8))} if camera else {})
    return FoldedStateValue(
        fields, folds=K, history=F, dim=D, camera_tokens={"image": 2} if camera else {}, outputs=1, initial_logit=-3.0
    )


def test_one_value_a_fold_that_starts_near_the_initial_logit() -> None:
    logits_BK1 = value()({"state": torch.zeros(B, F, 4)}, Instruction(torch.zeros(B, D)), {})
    assert logits_BK1.shape == (B, K, 1)
    assert (logits_BK1 + 3).abs().max() < 1.5


def test_folds_share_nothing_and_leave_the_instruction_alone() -> None:
    network = value()
    instruction_BD = torch.randn(B, D, requires_grad=True)
    network({"state": torch.randn(B, F, 4)}, Instruction(instruction_BD), {})[:, 1].sum().backward()
    assert instruction_BD.grad is None
    for number, fold in enumerate(network.folds):
        moved = any((parameter.grad != 0).any() for parameter in fold.parameters() if parameter.grad is not None)
        assert moved == (number == 1)
    storages = [tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()]
    assert len(set(storages)) == len(storages)


def told(value: float) -> Instruction:
    return Instruction(torch.full((B, D), value))


def test_the_instruction_matters() -> None:
    network, observation = value(), {"state": torch.zeros(B, F, 4)}
    assert not torch.allclose(network(observation, told(0.0), {}), network(observation, told(1.0), {}))


def test_what_a_camera_shows_matters_and_its_tower_is_not_trained() -> None:
    network, observation = value(camera=True), {"state": torch.zeros(B, F, 4)}
    tokens = torch.randn(B, F, 2, D, requires_grad=True)
    shown = network(observation, told(0.0), {"image": tokens})
    assert not torch.allclose(shown, network(observation, told(0.0), {"image": torch.zeros(B, F, 2, D)}))
    shown.sum().backward()
    assert tokens.grad is None
