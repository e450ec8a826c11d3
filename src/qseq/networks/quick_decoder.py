"""A decoder that reads less memory for a single decision on a CPU, and the same numbers come of it, or nearly so with
eight-bit weights.

A product with a single row is as long as it takes to read the weights, and each token of a decision reads them all.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from torch import nn

from qseq.networks.action_decoder import ActionDecoder
from qseq.networks.decoder import Decoder
from qseq.networks.quantised import Int8Linear

Module = TypeVar("Module", bound=nn.Module)


class QuickDecoder:
    """Keeps a copy of a decoder: weights in columns, and what may be noted of the first block noted."""

    def __init__(self) -> None:
        self._decoder: Decoder | None = None
        self._copy: Decoder | None = None
        self._versions: tuple[int, ...] = ()

    def of(self, decoder: Decoder) -> Decoder:
        """The copy of this decoder as it is now: it is brought up to date when a weight has changed."""
        versions = tuple(parameter._version for parameter in decoder.parameters())
        if self._copy is not None and self._decoder is decoder and self._versions == versions:
            return self._copy
        with torch.inference_mode(False), torch.no_grad():  # inference tensors could not be brought up to date
            if self._copy is None or self._decoder is not decoder:
                self._decoder, self._copy = decoder, in_columns(decoder)
            else:
                for mine, theirs in zip(self._copy.parameters(), decoder.parameters(), strict=True):
                    mine.copy_(theirs)  # in place: a program was made of these
            for part in self._copy.modules():
                if isinstance(part, ActionDecoder):
                    part.tabulate()
        self._versions = versions
        return self._copy


def in_columns(module: Module) -> Module:
    """A copy whose linear layers have their weights in memory column by column; shapes and numbers stay.

    So they are read in order and added to all outputs side by side, at nearly twice the rate on one thread where there
    is one row; for many rows the layout matters little. Layers of eight-bit weights become `quick`.
    """
    module = copy.deepcopy(module)
    for part in module.modules():
        if type(part) is nn.Linear:
            part.weight.data = part.weight.data.t().contiguous().t()
        elif isinstance(part, Int8Linear):
            part.quick = True
    return module
