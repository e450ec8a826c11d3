"""Fully sharded training (FSDP2), and activations that are computed again instead of kept.

Both work on blocks: the members of a model's lists of layers, each of which is called as a whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from qseq.training.learner import Learner

_LISTS = ("blocks", "layers", "h", "block")
"""What lists of layers are called here and in transformers."""


def blocks_of(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> block, the outermost ones."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        place, _, last = name.rpartition(".")
        if not isinstance(module, nn.ModuleList) or last not in _LISTS:
            continue
        if not any(f"{place}.".startswith(f"{outer}.") for outer in found):
            found |= {f"{name}.{index}": block for index, block in enumerate(module)}
    return found


def recompute_activations(model: nn.Module) -> None:
    """Let each block keep its inputs only and compute the rest again in the backward pass (Chen et al. 2016).

    Random numbers are drawn again as they were. In eval mode nothing changes.
    """
    for block in blocks_of(model).values():
        block.forward = _Recomputed(block)


class _Recomputed:
    def __init__(self, block: nn.Module) -> None:
        self._block = block
        self._forward = block.forward

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not (self._block.training and torch.is_grad_enabled()):
            return self._forward(*args, **kwargs)
        return checkpoint(self._forward, *args, use_reentrant=False, **kwargs)


@torch.no_grad()
def make_equal(model: nn.Module) -> None:
    """Give all processes the weights of the first, whatever they were built with."""
    for tensor in (*model.parameters(), *model.buffers()):
        whole = tensor.contiguous()
        torch.distributed.broadcast(whole, 0)
        if whole is not tensor:
            tensor.copy_(whole)


def shard(learner: Learner, target: nn.Module | None, device: torch.device) -> None:
    """Give each process its part of every parameter of the learner's model and of the target (FSDP2), in place.

    A block's parameters are gathered for the time it runs; those outside all blocks for the whole loss. Gradients are
    reduced to the parts, so the optimiser and the moving average work on parts as well. Parameters must be equal on all
    processes before.
    """
    from torch.distributed.device_mesh import init_device_mesh  # half a second to load
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    learner.target = target  # its parts are gathered with the learner's
    model = learner.model
    of_target = {} if target is None else blocks_of(target)
    used = Counter(id(parameter) for parameter in _uses(model))
    kept: set[nn.Parameter] = set()
    for name, block in blocks_of(model).items():
        here = Counter(id(parameter) for parameter in _uses(block))
        if not here or any(used[key] > count for key, count in here.items()):
            continue  # a tied weight must be gathered where its other users are
        twin = of_target.get(name)
        originals = dict(block.named_parameters(remove_duplicate=False))
        fully_shard(block, mesh=mesh)
        if twin is None:
            continue
        if any(p.requires_grad and p is originals[key] for key, p in twin.named_parameters(remove_duplicate=False)):
            # A trained parameter that the target shares is read by the online block only; the target must not keep a
            # second copy of it.
            parts = dict(block.named_parameters(remove_duplicate=False))
            for key, parameter in parts.items():
                place, _, last = key.rpartition(".")
                twin.get_submodule(place).register_parameter(last, parameter)
            kept |= set(parts.values())
        else:
            fully_shard(twin, mesh=mesh)
    more: dict[str, Any] = {"ignored_params": kept} if kept else {}  # torch 2.6 does not know the word
    fully_shard(learner, mesh=mesh, **more)


def _uses(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters, a shared one as often as it is used."""
    for _, parameter in module.named_parameters(remove_duplicate=False):
        yield parameter
