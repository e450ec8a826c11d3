"""Every fold is a network of its own."""

from __future__ import annotations

import torch
from torch import nn

from qseq.networks.camera import VisionConfig
from qseq.networks.observation import FieldLayout, make_field_encoders
from qseq.networks.state_values import FoldedStateValue

B, F, D, K = 5, 2, 8, 3


def value() -> FoldedStateValue:
    layouts = {"state": FieldLayout(shape=(4,))}

    def encoders() -> dict[str, nn.Module]:
        return make_field_encoders(layouts, D, VisionConfig())

    return FoldedStateValue(encoders, folds=K, history=F, dim=D, outputs=1, initial_logit=-3.0)


def test_one_value_a_fold_that_starts_near_the_initial_logit() -> None:
    logits_BK1 = value()({"state": torch.zeros(B, F, 4)}, torch.zeros(B, D))
    assert logits_BK1.shape == (B, K, 1)
    assert (logits_BK1 + 3).abs().max() < 1.5


def test_folds_share_nothing_and_leave_the_instruction_alone() -> None:
    network = value()
    instruction_BD = torch.randn(B, D, requires_grad=True)
    network({"state": torch.randn(B, F, 4)}, instruction_BD)[:, 1].sum().backward()
    assert instruction_BD.grad is None
    for number, fold in enumerate(network.folds):
        moved = any((parameter.grad != 0).any() for parameter in fold.parameters() if parameter.grad is not None)
        assert moved == (number == 1)
    storages = [tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()]
    assert len(set(storages)) == len(storages)


def test_the_instruction_matters() -> None:
    network, observation = value(), {"state": torch.zeros(B, F, 4)}
    assert not torch.allclose(network(observation, torch.zeros(B, D)), network(observation, torch.ones(B, D)))
