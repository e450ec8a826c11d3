"""AdamW, with weight decay on matrices only, and its state as named tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qseq.errors import DataError
from qseq.training.config import TrainingConfig
from qseq.training.weights import copy_part


def make_optimiser(model: nn.Module, config: TrainingConfig) -> torch.optim.AdamW:
    """AdamW over the parameters of `model` that are trained; the learning rate is set anew at each step."""
    decayed, exempt = decay_groups(model)
    groups = [
        {"params": list(decayed.values()), "weight_decay": config.weight_decay},
        {"params": list(exempt.values()), "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=config.learning_rate,
        betas=config.betas,
        eps=config.adam_epsilon,
        fused=all(p.device.type in ("cpu", "cuda") and p.is_floating_point() for p in model.parameters()),
    )


def decay_groups(model: nn.Module) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
    """The trained parameters by name: (those that decay, those that do not).

    Decay pulls a matrix towards a simpler map. On a bias or a gain it shifts the output instead, and an embedding
    would shrink at each step for all the entries the batch does not hold.
    """
    embeddings = {id(p) for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    decayed: dict[str, nn.Parameter] = {}
    exempt: dict[str, nn.Parameter] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        embedding = id(parameter) in embeddings or "embed" in name.rpartition(".")[2]
        (exempt if parameter.ndim < 2 or embedding else decayed)[name] = parameter
    return decayed, exempt


def optimiser_tensors(optimiser: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state as {"exp_avg/NAME OF THE PARAMETER": tensor}."""
    return {
        f"{key}/{name}": value
        for name, parameter in model.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
    }


def load_optimiser_tensors(
    optimiser: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor], path: Path
) -> None:
    """Put back what `optimiser_tensors` gave; `path` is for messages.

    Raises:
        DataError: a tensor belongs to no trained parameter of the model, or has another shape.
    """
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    state: dict[Tensor, dict[str, Any]] = {}
    for full_name, tensor in tensors.items():
        key, _, name = full_name.partition("/")
        if name not in parameters:
            raise DataError(f"{path}: found optimiser state of '{name}', which is no trained parameter of this model")
        parameter = parameters[name]
        if tensor.ndim > 0 and tensor.shape != parameter.shape:
            raise DataError(
                f"{path}: found {full_name} of shape {tuple(tensor.shape)}, expected {tuple(parameter.shape)}"
            )
        if key == "step":  # AdamW keeps its step counts on the CPU unless it is fused
            mine = tensor.to(parameter.device) if optimiser.defaults["fused"] else tensor
        else:
            mine = torch.empty_like(parameter, requires_grad=False)
            copy_part(tensor, mine)
        state.setdefault(parameter, {})[key] = mine
    optimiser.state.update(state)
