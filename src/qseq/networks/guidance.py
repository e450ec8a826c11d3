"""Classifier-free guidance: away from what the network says without an instruction.

Legend: B batch, S observation tokens, P tokens of a prefix, K bins, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from qseq.networks.action_network import ActionNetwork
from qseq.networks.attention import DecodingCache
from qseq.networks.decoder import Decoder
from qseq.networks.text import Instruction


class GuidedDecoder(Decoder):
    """A decoder whose logits are `null + scale * (conditional - null)` (Ho and Salimans 2022, equation 6).

    It stands in for the network's own and reads a context of both, `[B, 2, S, D]`, see `guided_context`: whoever
    chooses among rows finds one for each decision, as always.
    """

    def __init__(self, decoder: Decoder, scale: float) -> None:
        super().__init__()
        self.decoder = decoder
        self.scale = scale
        self.num_tokens = decoder.num_tokens
        self.num_bins = decoder.num_bins

    def new_cache(self) -> DecodingCache:
        return PairedCache(self.decoder.new_cache().layers)

    def forward(
        self,
        context_B2SD: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        order_BA: Tensor | None = None,
    ) -> Tensor:
        """Logits as the decoder's own, `[B, P + 1, K, ...]`."""
        order_XA = None if order_BA is None else order_BA.repeat_interleave(2, 0)
        logits = self.decoder(context_B2SD.flatten(0, 1), prefix_BP.repeat_interleave(2, 0), cache, order_XA)
        conditional, null = logits.unflatten(0, (-1, 2)).unbind(1)
        out: Tensor = null + self.scale * (conditional - null)
        return out


class PairedCache(DecodingCache):
    """A cache with two rows for each decision, side by side."""

    def select(self, rows: Tensor) -> DecodingCache:
        pairs = torch.stack((2 * rows, 2 * rows + 1), dim=1).flatten()
        return PairedCache(super().select(pairs).layers, self.length)


def guided_context(
    network: ActionNetwork,
    observation: Mapping[str, Tensor],
    instruction: Instruction,
    seen: tuple[Mapping[str, Tensor], Mapping[str, Tensor]] | None = None,
) -> Tensor:
    """Context `[B, 2, S, D]`: with the instructions, and with the null instruction.

    `seen` is what `network.see` gives with each of the two.
    """
    null = network.encoder.instruction.null(len(instruction))
    told, untold = (None, None) if seen is None else seen
    return torch.stack(
        (network.encode(observation, instruction, told), network.encode(observation, null, untold)), dim=1
    )
