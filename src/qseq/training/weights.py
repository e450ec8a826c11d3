"""A model's tensors in a safetensors file, each once even if two modules share it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qseq.errors import DataError, QseqError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """The parameters and persistent buffers of `model` by name; a tied one under its first name only."""
    stored = model.state_dict(keep_vars=True).keys()
    named = (*model.named_parameters(), *model.named_buffers())
    return {name: tensor for name, tensor in named if name in stored}


def save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors to `path`."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path, {"format": "pt"})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of `path`, on the CPU.

    Raises:
        DataError: the file is missing or not a whole safetensors file.
    """
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: not a readable safetensors file: {error}") from None


def shapes_in(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{name: (dtype, shape)} of a safetensors file, from its header alone."""
    with safe_open(path, framework="pt") as file:
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
        return {name: (item.get_dtype(), tuple(item.get_shape())) for name, item in slices.items()}


@torch.no_grad()
def load_weights(model: nn.Module, path: Path) -> None:
    """Copy the tensors of `path` into `model`, in place.

    Raises:
        DataError: the file is not whole, or it lacks a tensor of the model, or has one of another shape.
    """
    copy_tensors(load_tensors(path), tensors_of(model), path)


@torch.no_grad()
def copy_tensors(source: Mapping[str, Tensor], into: Mapping[str, Tensor], path: Path) -> None:
    """Copy each tensor of `into` from `source`, which was read from `path`; of a sharded one, this process's part.

    Raises:
        DataError: `source` lacks a tensor, or has it in another shape.
    """
    for name, tensor in into.items():
        if name not in source:
            raise DataError(f"{path}: the tensor '{name}' is missing; was the model changed since?")
        if source[name].shape != tensor.shape:
            found, expected = tuple(source[name].shape), tuple(tensor.shape)
            raise DataError(f"{path}: the tensor '{name}' has shape {found}, expected {expected}")
    for name, tensor in into.items():
        copy_part(source[name], tensor)


@torch.no_grad()
def copy_part(source: Tensor, into: Tensor) -> None:
    """Copy a whole tensor into one that may be sharded over processes: each takes its own part."""
    if is_sharded_tensor(into):
        for place, placement in enumerate(into.placements):
            if placement.is_shard():
                # As FSDP2 splits: equal parts but the last, and none for processes that are too many.
                dimension = placement.dim  # type: ignore[attr-defined]
                parts = source.chunk(into.device_mesh.size(place), dimension)
                rank = into.device_mesh.get_local_rank(place)
                source = parts[rank] if rank < len(parts) else source.narrow(dimension, 0, 0)
    local(into).copy_(source)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a sharded tensor, any other as it is. They share memory."""
    return tensor.to_local().detach() if is_sharded_tensor(tensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """A sharded tensor put together, which all processes must ask for, any other as it is."""
    return tensor.full_tensor() if is_sharded_tensor(tensor) else tensor


def is_sharded_tensor(tensor: Tensor) -> TypeGuard[DTensor]:
    """Whether this is a `DTensor`. Its module takes half a second to load, and is there where anything was sharded."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def gathered(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """The tensors, sharded ones put together from all processes, one after the other.

    Every process must call it with the same names in the same order. Only those that `keep` them have the memory for
    all of them at once, on the CPU; the others get nothing.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        full = whole(tensor).detach()
        if keep:
            found[name] = full.cpu() if is_sharded_tensor(tensor) else full
    return found


def require_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Check that a file which `save_model` wrote holds `weights` as they are, else a resumed run would not be exact.

    Raises:
        QseqError: it lacks a tensor, or has it in another shape or type.
    """
    stored = shapes_in(path)
    for name, tensor in weights.items():
        kind, shape = stored.get(name, ("nothing", ()))
        if shape != tuple(tensor.shape) or (kind == "F32") != (tensor.dtype == torch.float32):
            raise QseqError(
                f"save_model wrote '{path.name}' with {kind} {shape} for '{name}', expected {tensor.dtype} "
                f"{tuple(tensor.shape)}: it must hold the model's state_dict as it is"
            )
