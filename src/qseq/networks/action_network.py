"""Observation, instruction and action prefix -> logits of the next action token. Robots and imitation share it.

Legend: B batch, I instructions of a data set, F frames of history, S observation tokens, P tokens of a prefix, K bins,
W words, E width of a word's embedding, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from qseq.configuration import Fraction
from qseq.networks.attention import DecodingCache
from qseq.networks.decoder import Decoder
from qseq.networks.frozen_text import TextInputs, resolve_text
from qseq.networks.head import HeadConfig, make_head
from qseq.networks.observation import FieldLayout, ObservationEncoder, make_field_encoders
from qseq.networks.text import Instruction, TextConfig
from qseq.networks.vision import VisionConfig, resolve_vision


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """Sizes of the network."""

    dim: int = 128
    """Width of every token."""
    encoder_depth: int = 1
    """Transformer blocks over the observation tokens."""
    decoder_depth: int = 2
    """Transformer blocks over the action tokens."""
    heads: int = 4
    """Attention heads of the encoder, and the width of one."""
    dim_head: int = 32
    decoder_heads: int = 4
    """Attention heads of the decoder, and the width of one."""
    decoder_dim_head: int = 32
    ff_mult: int = 4
    dropout: float = 0.1
    memory_dropout: Fraction = 0.1
    """Share of the training samples that are not shown what was done before (`data.past_actions`)."""
    tied: bool = False
    """Score bins with their own embeddings instead of a projection of its own."""
    head: HeadConfig = field(default_factory=HeadConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    text: TextConfig = field(default_factory=TextConfig)


def resolve(config: NetworkConfig) -> NetworkConfig:
    """The same with what other libraries' models are made of noted, so that it rebuilds the network anywhere.

    Raises:
        RequestError: a library is not installed, or a model not found.
    """
    return replace(config, vision=resolve_vision(config.vision), text=resolve_text(config.text))


def unpublished(config: NetworkConfig) -> NetworkConfig:
    """The same network without a download of weights that others will replace."""
    backbone = replace(config.vision.backbone, pretrained=False)
    return replace(config, vision=replace(config.vision, backbone=backbone))


def make_action_head(config: NetworkConfig, head: HeadConfig, **scored: Any) -> Decoder:
    """A head of the sizes of a network: its own, or one beside it. `scored`: further arguments of `make_head`."""
    return make_head(
        head,
        config.dim,
        depth=config.decoder_depth,
        heads=config.decoder_heads,
        dim_head=config.decoder_dim_head,
        ff_mult=config.ff_mult,
        dropout=config.dropout,
        tied=config.tied,
        **scored,
    )


class ActionNetwork(nn.Module):
    """Encoder of a short history and an instruction, and an autoregressive decoder over action tokens.

    Args:
        tower: reads the cameras in the place of a new one, see `CameraEncoder`.
    """

    def __init__(
        self,
        config: NetworkConfig,
        fields: Mapping[str, FieldLayout],
        *,
        num_tokens: int,
        num_bins: int,
        history: int = 1,
        outputs_per_bin: int = 1,
        initial_logit: float = 0.0,
        token_mask_AK: Tensor | None = None,
        tower: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.config = config = resolve(config)
        self.field_shapes = {name: layout.shape for name, layout in fields.items()}
        self.text_inputs = TextInputs(config.text)
        encoders = make_field_encoders(
            fields,
            config.dim,
            config.vision,
            conditional=config.text.encoder != "none" or config.vision.condition_on_state,
            tower=tower,
            memory_dropout=config.memory_dropout,
            gated=config.text.gate_numbers,
        )
        self.encoder = ObservationEncoder(
            encoders,
            dim=config.dim,
            history=history,
            depth=config.encoder_depth,
            heads=config.heads,
            dim_head=config.dim_head,
            ff_mult=config.ff_mult,
            dropout=config.dropout,
            text=config.text,
        )
        self.decoder = make_action_head(
            config,
            config.head,
            num_tokens=num_tokens,
            num_bins=num_bins,
            outputs_per_bin=outputs_per_bin,
            initial_logit=initial_logit,
            token_mask_AK=token_mask_AK,
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def embed_instructions(self, inputs: Tensor, rows_B: Tensor | None = None) -> Instruction:
        """What `text_inputs` made of texts -> what conditions the network, for every input or for those of `rows_B`."""
        out: Instruction = self.encoder.instruction(inputs, rows_B)
        return out

    def instruct(self, texts: Sequence[str]) -> Instruction:
        """What conditions the network, for each text; an empty text gives the null instruction."""
        return self.embed_instructions(self.text_inputs(texts).to(self.device))

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """What may be given in the place of texts: `[B, E]`, or `[B, W, E]` where tokens attend to words.

        An empty text gives zeros.
        """
        return self.encoder.instruction.raw(self.text_inputs(texts).to(self.device))

    def see(self, observation: Mapping[str, Tensor], instruction: Instruction) -> dict[str, Tensor]:
        """Tokens of the cameras, by field, for `encode` and whoever else reads them; empty without cameras."""
        return self.encoder.see(observation, instruction)

    def encode(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Each field `[B, F, *shape]` -> context `[B, S, D]`. `seen` spares the cameras, see `see`."""
        out: Tensor = self.encoder(observation, instruction, seen)
        return out

    def decode(
        self,
        context: Tensor,
        prefix_BP: Tensor,
        cache: DecodingCache | None = None,
        *,
        decoder: Decoder | None = None,
    ) -> Tensor:
        """Logits `[B, P + 1, K]` of the tokens after every part of the prefix.

        `decoder` stands in for the network's own, such as a `GuidedDecoder` with the context it reads.
        """
        out: Tensor = (decoder or self.decoder)(context, prefix_BP, cache)
        return out
