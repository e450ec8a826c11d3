"""What a caller gives, states and instructions, as the network reads it.

Legend: B batch, S observation tokens, P tokens of a prefix, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from qseq.errors import RequestError
from qseq.networks.action_network import ActionNetwork
from qseq.networks.attention import DecodingCache
from qseq.networks.decoder import Decoder
from qseq.networks.guidance import GuidedDecoder, guided_context
from qseq.networks.text import Instruction
from qseq.observations import is_image
from qseq.robot.arguments import read_state, read_text_embeds

State = Tensor | Mapping[str, Tensor]


class StateReader(ActionNetwork):
    """An `ActionNetwork` that takes states as tensors or mappings, and instructions as texts or embeddings.

    Args:
        flash_attn: False computes attention by plain products only.
    """

    def __init__(self, *arguments: Any, flash_attn: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.flash_attn = flash_attn
        # Of the first field, which is what a bare tensor means; so it holds for a loaded model too.
        self.takes_video = is_image(next(iter(self.field_shapes.values())))

    def encode_state(
        self, state: State, texts: Sequence[str] | None = None, *, text_embeds: Tensor | None = None
    ) -> Tensor:
        """What the decoder of actions reads: the encoded tokens of instruction and observation, `[B, S, D]`."""
        with self._kernels():
            return self._reader(self._observation(state), texts, text_embeds, 1.0)[1]

    def see(self, observation: Mapping[str, Tensor], instruction: Instruction) -> dict[str, Tensor]:
        with self._kernels():
            return super().see(observation, instruction)

    def encode(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        with self._kernels():
            return super().encode(observation, instruction, seen)

    def decode(
        self,
        context: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        *,
        decoder: Decoder | None = None,
    ) -> Tensor:
        with self._kernels():
            return super().decode(context, prefix_BP, cache, decoder=decoder)

    def _kernels(self) -> AbstractContextManager[None]:
        """Which kernels attention may use; what goes backwards uses the same."""
        return nullcontext() if self.flash_attn else sdpa_kernel(SDPBackend.MATH)

    def _observation(self, state: State) -> dict[str, Tensor]:
        return read_state(
            state, self.field_shapes, history=self.encoder.history, video=self.takes_video, device=self.device
        )

    def _reader(
        self,
        observation: Mapping[str, Tensor],
        texts: Sequence[str] | None,
        text_embeds: Tensor | None,
        cond_scale: float,
    ) -> tuple[Decoder, Tensor]:
        """What decodes, and the context it reads: `[B, S, D]`, or with guidance `[B, 2, S, D]`."""
        instruction = self._instruction(texts, text_embeds, len(next(iter(observation.values()))))
        if cond_scale == 1.0:
            return self.decoder, self.encode(observation, instruction)
        return GuidedDecoder(self.decoder, cond_scale), guided_context(self, observation, instruction)

    def _instruction(self, texts: Sequence[str] | None, text_embeds: Tensor | None, batch: int) -> Instruction:
        encoder = self.encoder.instruction
        if not encoder.conditional and (texts is not None or text_embeds is not None):
            raise RequestError("texts: found an instruction, expected none: the model has condition_on_text=False")
        if text_embeds is not None:
            width = self.config.text.embed_dim or self.config.dim
            return self.embed_instructions(read_text_embeds(text_embeds.to(self.device), batch=batch, width=width))
        if texts is None:
            return encoder.null(batch)
        if len(texts) not in (1, batch):
            raise RequestError(f"texts: found {len(texts)} for a batch of {batch}, expected one for each row")
        return self.instruct(list(texts) * (batch if len(texts) == 1 else 1))
