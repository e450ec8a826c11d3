"""Observation and instruction -> a sequence of tokens for the action decoder to attend to.

Legend: B batch, F frames of history, S tokens, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from qseq.episodes import PAST_ACTIONS
from qseq.errors import ConfigError, RequestError
from qseq.networks.attention import TransformerBlock
from qseq.networks.camera import CameraEncoder
from qseq.networks.conditioning import Conditioning
from qseq.networks.past_actions import PastActionEncoder
from qseq.networks.text import Instruction, InstructionEncoder, TextConfig
from qseq.networks.vision import VisionConfig
from qseq.observations import is_image


@dataclass(frozen=True, kw_only=True)
class FieldLayout:
    """An observation field as the network reads it: shape of one frame, and what standardises it (not images)."""

    shape: tuple[int, ...]
    mean: Tensor | None = None
    std: Tensor | None = None


class VectorEncoder(nn.Module):
    """A field of numbers -> one token a frame: standardise, clip far outliers, two-layer network.

    With `gated` the instruction, of width `dim`, scales the first layer's features, as in a tower's `GatedLayer`.
    """

    mean: Tensor
    std: Tensor
    tokens = 1

    def __init__(self, layout: FieldLayout, dim: int, *, clip: float = 10.0, gated: bool = False) -> None:
        super().__init__()
        self.clip = clip
        mean = torch.zeros(layout.shape) if layout.mean is None else layout.mean
        std = torch.ones(layout.shape) if layout.std is None else layout.std
        # Cloned, because encoders of the same field must not share memory: a file of weights stores it only once.
        self.register_buffer("mean", mean.flatten().float().clone())
        self.register_buffer("std", std.flatten().float().clone())
        size = self.mean.numel()
        self.network = nn.Sequential(
            nn.Linear(size, 2 * dim), nn.GELU(), nn.LayerNorm(2 * dim), nn.Linear(2 * dim, dim)
        )
        self.to_scale = nn.Linear(dim, 2 * dim) if gated else None

    def forward(self, frames_BF: Tensor, instruction: Instruction) -> Tensor:
        """`[B, F, *shape]` -> `[B, F, 1, D]`. Unless `gated`, the instruction is not looked at."""
        x = (frames_BF.flatten(2).float() - self.mean) / self.std
        first, *rest = self.network
        hidden = first(x.clamp(-self.clip, self.clip))
        if self.to_scale is not None:
            hidden = hidden * (1 + self.to_scale(instruction.summary_BD)[:, None])
        for layer in rest:
            hidden = layer(hidden)
        out: Tensor = hidden
        return out.unsqueeze(2)


def make_field_encoder(
    name: str,
    layout: FieldLayout,
    dim: int,
    vision: VisionConfig,
    *,
    conditional: bool,
    tower: nn.Module | None,
    memory_dropout: float = 0.0,
    gated: bool = False,
) -> nn.Module:
    """A new encoder of one field: `([B, F, *shape], instruction) -> [B, F, encoder.tokens, D]`.

    `conditional` says whether there are instructions; a `tower` is used as it is, in the place of a new one. `gated`
    is for fields of numbers, see `VectorEncoder`.

    Raises:
        RequestError: a camera whose frames the tower cannot take.
    """
    if name == PAST_ACTIONS:
        return PastActionEncoder(layout.shape, dim, drop_probability=memory_dropout)
    if not is_image(layout.shape):
        return VectorEncoder(layout, dim, gated=gated)
    try:
        return CameraEncoder(layout.shape, dim, vision, conditional=conditional, tower=tower)
    except ValueError as error:
        raise RequestError(
            f"observation field '{name}' has shape {list(layout.shape)}, read as an image [channels, height, width]: "
            f"{error}; leave the field out with data.fields, or store it in that order and size"
        ) from error


def make_field_encoders(
    fields: Mapping[str, FieldLayout],
    dim: int,
    vision: VisionConfig,
    *,
    conditional: bool = True,
    tower: nn.Module | None = None,
    memory_dropout: float = 0.0,
    gated: bool = False,
) -> dict[str, nn.Module]:
    """A new encoder for each field, see `make_field_encoder`.

    Raises:
        ConfigError: cameras that are to look by the state where there is none.
    """
    if vision.condition_on_state and all(name == PAST_ACTIONS or is_image(fields[name].shape) for name in fields):
        raise ConfigError(
            f"network.vision.condition_on_state: found true, expected it with a field of numbers beside the cameras; "
            f"the fields are {sorted(fields)}"
        )
    return {
        name: make_field_encoder(
            name, layout, dim, vision, conditional=conditional, tower=tower, memory_dropout=memory_dropout, gated=gated
        )
        for name, layout in fields.items()
    }


class ObservationEncoder(nn.Module):
    """Fields of a short history and an instruction -> tokens `[B, S, D]`.

    Every frame of every field gives its tokens; the instruction gives one and shifts all others; a frame-causal
    transformer mixes them (a token looks at its own and earlier frames, and at the instruction). `text` may ask for
    more conditioning, see `Conditioning`.
    """

    mask_SS: Tensor

    def __init__(
        self,
        field_encoders: Mapping[str, nn.Module],
        *,
        dim: int,
        history: int,
        depth: int,
        heads: int,
        dim_head: int,
        ff_mult: int = 4,
        dropout: float = 0.0,
        text: TextConfig | None = None,
    ) -> None:
        super().__init__()
        self.fields = tuple(field_encoders)
        self.history = history
        # Field names may hold dots or slashes, module names may not: encoders are kept by order.
        self.encoders = nn.ModuleList(field_encoders[name] for name in self.fields)
        self.looks_by_state = any(camera.mix is not None for _, camera in self._cameras())
        tokens_a_frame = sum(cast(int, encoder.tokens) for encoder in field_encoders.values())
        text = text or TextConfig()
        self.instruction = InstructionEncoder(dim, text)
        self.frame_position_FSD = nn.Parameter(torch.randn(history, tokens_a_frame, dim) * 0.02)
        self.blocks = nn.ModuleList(
            TransformerBlock(dim, heads=heads, dim_head=dim_head, ff_mult=ff_mult, dropout=dropout)
            for _ in range(depth)
        )
        conditioned = text.film or text.cross_attention
        self.conditioning = nn.ModuleList(
            Conditioning(dim, text, heads=heads, dim_head=dim_head, dropout=dropout)
            for _ in range(depth if conditioned else 0)
        )
        self.norm = nn.LayerNorm(dim)
        frame_of_S = torch.cat((torch.zeros(1), torch.arange(history).repeat_interleave(tokens_a_frame) + 1))
        self.register_buffer("mask_SS", frame_of_S[:, None] >= frame_of_S[None, :], persistent=False)

    @property
    def camera_tokens(self) -> dict[str, int]:
        """Tokens of a frame, for each camera."""
        return {name: encoder.tokens for name, encoder in self._cameras()}

    def see(self, observation: Mapping[str, Tensor], instruction: Instruction) -> dict[str, Tensor]:
        """Tokens `[B, F, tokens, D]` of the cameras, by field: the costly part, to be done once and read twice."""
        state_BFD = self.state(observation, instruction)
        return {name: encoder(observation[name], instruction, state_BFD) for name, encoder in self._cameras()}

    def places(self, observation: Mapping[str, Tensor], instruction: Instruction) -> dict[str, Tensor]:
        """Where the cameras' tokens look, by field, see `CameraEncoder.places`."""
        state_BFD = self.state(observation, instruction)
        return {name: encoder.places(observation[name], instruction, state_BFD) for name, encoder in self._cameras()}

    def _cameras(self) -> list[tuple[str, CameraEncoder]]:
        pairs = zip(self.fields, self.encoders, strict=True)
        return [(name, encoder) for name, encoder in pairs if isinstance(encoder, CameraEncoder)]

    def state(self, observation: Mapping[str, Tensor], instruction: Instruction) -> Tensor | None:
        """What conditions the cameras beside the instruction, `[B, F, D]`: the sum of the numbers' tokens of a frame.

        None unless the cameras are asked to look by it (`VisionConfig.condition_on_state`).
        """
        if not self.looks_by_state:
            return None
        vectors = (
            encoder(observation[name], instruction)[:, :, 0]
            for name, encoder in zip(self.fields, self.encoders, strict=True)
            if isinstance(encoder, VectorEncoder)
        )
        return torch.stack(list(vectors)).sum(0)

    def forward(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Fields `[B, F, *shape]` -> `[B, S, D]`; `instruction` comes from `self.instruction`, `seen` from `see`."""
        seen = self.see(observation, instruction) if seen is None else seen
        encoded = [
            seen[name] if name in seen else encoder(observation[name], instruction)
            for name, encoder in zip(self.fields, self.encoders, strict=True)
        ]
        summary_BD = instruction.summary_BD
        frames_BFSD = torch.cat(encoded, dim=2) + self.frame_position_FSD + summary_BD[:, None, None]
        x_BSD = torch.cat((summary_BD[:, None], frames_BFSD.flatten(1, 2)), dim=1)
        for index, block in enumerate(self.blocks):
            if self.conditioning:
                x_BSD = self.conditioning[index](x_BSD, instruction)
            x_BSD = block(x_BSD, mask_TT=self.mask_SS)
        out: Tensor = self.norm(x_BSD)
        return out
