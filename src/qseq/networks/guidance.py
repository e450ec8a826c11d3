"""Classifier-free guidance: away from what the network says without an instruction.

Legend: B batch, S observation tokens, P tokens of a prefix, K bins, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qseq.networks.action_decoder import ActionDecoder
from qseq.networks.action_network import ActionNetwork
from qseq.networks.attention import DecodingCache
from qseq.networks.text import Instruction


class GuidedDecoder:
    """A decoder whose logits are `null + scale * (conditional - null)` (Ho and Salimans 2022, equation 6).

    It stands in for an `ActionDecoder` and reads a context of twice the batch, see `guided_context`.
    """

    def __init__(self, decoder: ActionDecoder, scale: float) -> None:
        self.decoder = decoder
        self.scale = scale
        self.num_tokens = decoder.num_tokens
        self.num_bins = decoder.num_bins

    def new_cache(self) -> DecodingCache:
        return self.decoder.new_cache()

    def __call__(self, context_XSD: Tensor, prefix_BP: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """Context `[2 B, S, D]`, conditional rows first, prefix `[B, P]` -> logits as `ActionDecoder.forward`."""
        conditional, null = self.decoder(context_XSD, prefix_BP.repeat(2, 1), cache).chunk(2)
        out: Tensor = null + self.scale * (conditional - null)
        return out


def guided_context(
    network: ActionNetwork,
    observation: Mapping[str, Tensor],
    instruction: Instruction,
    seen: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
) -> Tensor:
    """Context `[2 B, S, D]`: with the instructions, then with the null instruction.

    `seen` is what `network.see` gives with each of the two.
    """
    null = network.encoder.instruction.null(len(instruction))
    told, untold = (None, None) if seen is None else seen
    return torch.cat((network.encode(observation, instruction, told), network.encode(observation, null, untold)))
