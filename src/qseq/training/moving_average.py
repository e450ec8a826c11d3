"""The target model: a moving average of the online model that is never trained and never drops out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from qseq.training.config import TrainingConfig
from qseq.training.weights import copy_tensors, load_tensors, local, tensors_of


def target_rate_at(step: int, config: TrainingConfig) -> float:
    """How far the target moves towards the online model after `step` optimiser steps: 0 not at all, 1 copies it."""
    if step % config.target_every != 0:
        return 0.0
    return 1.0 if step <= config.target_start else config.target_rate


class MovingAverage:
    """Owns the target model and moves it.

    Parameters that are not trained (a frozen text encoder) are shared with the online model: they would stay equal
    for ever, so a second copy would only cost memory. A model may name trained ones that are shared, too, by a method
    `shared_with_target()`: its objective then reads what it computed with them, and never trains them by the target.
    """

    def __init__(self, online: nn.Module) -> None:
        declared: Callable[[], Iterable[nn.Parameter]] = getattr(online, "shared_with_target", tuple)
        shared = {id(p): p for p in declared()} | {id(p): p for p in online.parameters() if not p.requires_grad}
        self.model: nn.Module = copy.deepcopy(online, dict(shared)).eval()
        for parameter in self.model.parameters():
            if id(parameter) not in shared:
                parameter.requires_grad_(False)
        self._averaged = [name for name, p in self.model.named_parameters() if id(p) not in shared]
        self.follow(online)

    def follow(self, online: nn.Module) -> None:
        """Find the parameters again, of both models, after something put others in their places (sharding does)."""
        source, target = dict(online.named_parameters()), dict(self.model.named_parameters())
        self._target = [local(target[name]) for name in self._averaged]
        self._online = [local(source[name]) for name in self._averaged]
        self._target_buffers = list(self.model.buffers())
        self._online_buffers = list(online.buffers())

    @torch.no_grad()
    def update(self, rate: float) -> None:
        """target += rate * (online - target), in one call for all parameters; buffers are copied."""
        if rate == 0.0:
            return
        if self._target:
            torch._foreach_lerp_(self._target, self._online, rate)
        if self._target_buffers:
            torch._foreach_copy_(self._target_buffers, self._online_buffers)

    def tensors(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: the tensors that are not shared with the online model."""
        kept = {*self._averaged, *(name for name, _ in self.model.named_buffers())}
        return {name: tensor for name, tensor in tensors_of(self.model).items() if name in kept}

    def load(self, path: Path) -> None:
        """Put back what `tensors` gave.

        Raises:
            DataError: the file is not whole or belongs to another model.
        """
        with torch.no_grad():
            copy_tensors(load_tensors(path), self.tensors(), path)
