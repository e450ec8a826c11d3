"""Observation, instruction and action prefix -> logits of the next action token. Robots and imitation share it.

Legend: B batch, F frames of history, S observation tokens, P tokens of a prefix, K bins, W words, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from qseq.networks.attention import DecodingCache
from qseq.networks.camera import VisionConfig
from qseq.networks.head import HeadConfig, make_head
from qseq.networks.observation import FieldLayout, ObservationEncoder, make_field_encoders
from qseq.networks.text import word_ids


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
    tied: bool = False
    """Score bins with their own embeddings instead of a projection of its own."""
    head: HeadConfig = field(default_factory=HeadConfig)
    vision: VisionConfig = field(default_factory=VisionConfig)
    instruction_vocabulary: int = 1024
    """Buckets that the words of instructions are hashed to."""


class ActionNetwork(nn.Module):
    """Encoder of a short history and an instruction, and an autoregressive decoder over action tokens."""

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
    ) -> None:
        super().__init__()
        self.field_shapes = {name: layout.shape for name, layout in fields.items()}
        encoders = make_field_encoders(fields, config.dim, config.vision)
        self.encoder = ObservationEncoder(
            encoders,
            dim=config.dim,
            history=history,
            depth=config.encoder_depth,
            heads=config.heads,
            dim_head=config.dim_head,
            ff_mult=config.ff_mult,
            dropout=config.dropout,
            instruction_vocabulary=config.instruction_vocabulary,
        )
        self.decoder = make_head(
            config.head,
            config.dim,
            num_tokens=num_tokens,
            num_bins=num_bins,
            depth=config.decoder_depth,
            heads=config.decoder_heads,
            dim_head=config.decoder_dim_head,
            ff_mult=config.ff_mult,
            dropout=config.dropout,
            tied=config.tied,
            outputs_per_bin=outputs_per_bin,
            initial_logit=initial_logit,
            token_mask_AK=token_mask_AK,
        )

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def word_ids(self, texts: list[str]) -> Tensor:
        """Texts -> what `embed_words` reads, int64 `[B, W]`."""
        return word_ids(texts, vocabulary=self.encoder.instruction.vocabulary).to(self.device)

    def embed_words(self, word_ids_BW: Tensor) -> Tensor:
        """`[B, W]` -> instruction embeddings `[B, D]`."""
        out: Tensor = self.encoder.instruction(word_ids_BW)
        return out

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Instruction embeddings `[B, D]`; an empty text gives the null instruction."""
        return self.embed_words(self.word_ids(texts))

    def see(self, observation: Mapping[str, Tensor], instruction_BD: Tensor) -> dict[str, Tensor]:
        """Tokens of the cameras, by field, for `encode` and whoever else reads them; empty without cameras."""
        return self.encoder.see(observation, instruction_BD)

    def encode(
        self, observation: Mapping[str, Tensor], instruction_BD: Tensor, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Each field `[B, F, *shape]` -> context `[B, S, D]`. `seen` spares the cameras, see `see`."""
        out: Tensor = self.encoder(observation, instruction_BD, seen)
        return out

    def decode(self, context_BSD: Tensor, prefix_BP: Tensor, cache: DecodingCache | None = None) -> Tensor:
        """Logits `[B, P + 1, K]` of the tokens after every part of the prefix."""
        out: Tensor = self.decoder(context_BSD, prefix_BP, cache)
        return out
