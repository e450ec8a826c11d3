"""What `QRoboticTransformer` takes for its cameras and instructions, as the configuration of a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from qseq.errors import RequestError
from qseq.networks.observation import FieldLayout
from qseq.networks.text import TextConfig
from qseq.networks.vision import MaxViT, MaxViTConfig, VisionConfig
from qseq.networks.vision.config import MODULE
from qseq.observations import is_image

VIDEO_FRAMES = 6
"""Frames of history of a model that is built with `vit`, unless it is told (Q-Transformer, section 5)."""
CAMERA = "image"
"""Name of the one camera of such a model."""


@dataclass(frozen=True)
class Camera:
    """What `vit` says: how the tower is described, the tower where it exists already, and the camera's frames."""

    vision: VisionConfig
    tower: nn.Module | None
    layout: FieldLayout


def read_vit(
    vit: MaxViT | Mapping[str, Any] | nn.Module, vision: VisionConfig, image_size: int | tuple[int, int] | None
) -> Camera:
    """`vit` is a MaxViT, a mapping of its arguments, or any module with the interface of `VisionTower`.

    A class head (`num_classes`) is left out: it is not what a robot acts by. Frames are `image_size` pixels, by default
    the smallest that a MaxViT takes (224 with 4 stages and windows of 7).

    Raises:
        RequestError: an argument that MaxViT does not have, or no size of image for another module.
    """
    if isinstance(vit, Mapping):
        sizes = dict(vit)
        sizes.pop("num_classes", None)
        channels = sizes.pop("channels", 3)
        known = {field.name for field in fields(MaxViTConfig)}
        unknown = sorted(set(sizes) - known)
        if unknown:
            raise RequestError(f"vit: found '{unknown[0]}', expected some of {sorted({*known, 'channels'})}")
        sizes["depth"] = tuple(sizes.get("depth", MaxViTConfig.depth))
        config = MaxViTConfig(**sizes)
        side = config.window_size * 2 ** (len(config.depth) + 1)
        tower: nn.Module | None = None
        vision = replace(vision, tower="maxvit", maxvit=config)
    elif isinstance(vit, MaxViT):
        channels, side, tower = vit.channels, vit.smallest_side, vit
        vision = replace(vision, tower="maxvit", maxvit=vit.config, checkpoint_activations=vit.checkpoint_activations)
    else:
        if image_size is None:
            raise RequestError(f"image_size: found None, expected the pixels of a side for {type(vit).__name__}")
        channels, side, tower = int(getattr(vit, "channels", 3)), 0, vit
        vision = replace(vision, tower=MODULE + type(vit).__name__)
    height, width = image_size if isinstance(image_size, tuple) else (image_size or side,) * 2
    return Camera(vision, tower, FieldLayout(shape=(channels, height, width)))


def with_token_learner(
    vision: VisionConfig, *, tokens: int | None, ff_mult: int | None, layers: int | None
) -> VisionConfig:
    """`vision` with other settings of TokenLearner; None leaves one as it is."""
    given: dict[str, Any] = {"tokens": tokens, "token_learner_ff_mult": ff_mult, "token_learner_layers": layers}
    return replace(vision, **{name: value for name, value in given.items() if value is not None})


def read_conditioning(
    text: TextConfig | None,
    *,
    condition_on_text: bool,
    cond_drop_prob: float | None,
    use_attn_conditioner: bool | None,
    conditioner_kwargs: Mapping[str, Any] | None,
    text_embed_dim: int | None,
    film: bool,
) -> TextConfig:
    """The arguments about instructions as one configuration; what is None leaves `text` as it is.

    Raises:
        RequestError: an argument of `conditioner_kwargs` that `TextConfig` does not have.
    """
    text = text or TextConfig(film=film and not use_attn_conditioner and condition_on_text)
    if not condition_on_text:
        return TextConfig(encoder="none")
    changes = dict(conditioner_kwargs or {})
    known = {field.name for field in fields(TextConfig)}
    unknown = sorted(set(changes) - known)
    if unknown:
        raise RequestError(f"conditioner_kwargs: found '{unknown[0]}', expected some of {sorted(known)}")
    named: dict[str, Any] = {
        "drop_probability": cond_drop_prob,
        "cross_attention": use_attn_conditioner,
        "embed_dim": text_embed_dim,
    }
    return replace(text, **{name: value for name, value in named.items() if value is not None} | changes)


def read_state(
    state: Tensor | Mapping[str, Tensor],
    shapes: Mapping[str, tuple[int, ...]],
    *,
    history: int,
    video: bool,
    device: torch.device,
) -> dict[str, Tensor]:
    """Every field `[B, F, *shape]`.

    A mapping holds fields `[B, *shape]` (one frame) or `[B, F, *shape]`; a tensor is the first field, with
    `video` a film `[B, C, F, H, W]`.

    Raises:
        RequestError: a field is missing or has another shape, or images in memory are floats outside [0, 1].
    """
    if isinstance(state, Tensor):
        name = next(iter(shapes))
        state = {name: state.transpose(1, 2) if video and state.ndim == 5 else state}
    observation: dict[str, Tensor] = {}
    for name, shape in shapes.items():
        if name not in state:
            raise RequestError(f"state: field '{name}' is missing; found {sorted(state)}, expected {sorted(shapes)}")
        if is_image(shape):
            _check_range(name, state[name])
        value = state[name].to(device)
        frames = value if value.ndim == len(shape) + 2 else value[:, None]
        if frames.shape[1:] != (history, *shape):
            layout = "[batch, channels, frames, height, width]" if video else "[batch, frames, *shape]"
            raise RequestError(
                f"state: field '{name}' has {frames.shape[1]} frames of shape {list(frames.shape[2:])}, expected "
                f"{history} of {list(shape)}; the order of dimensions is {layout}"
            )
        observation[name] = frames
    return observation


def _check_range(name: str, images: Tensor) -> None:
    # Not on an accelerator, which would have to wait for the answer.
    if images.device.type != "cpu" or not images.is_floating_point() or not images.numel():
        return
    low, high = (float(bound) for bound in images.aminmax())
    if not (low >= 0.0 and high <= 1.0):
        raise RequestError(
            f"state: images '{name}' are {str(images.dtype).removeprefix('torch.')} in [{low:.4g}, {high:.4g}], "
            "expected uint8 in [0, 255] or floats in [0, 1]"
        )


def read_text_embeds(text_embeds: Tensor, *, batch: int, width: int) -> Tensor:
    """Embeddings in the place of texts, `[B, W, E]` with W of 1 where none was given: rows of zeros are padding.

    Raises:
        RequestError: another width or batch.
    """
    embeds = text_embeds if text_embeds.ndim == 3 else text_embeds[:, None] if text_embeds.ndim == 2 else None
    if embeds is None or embeds.shape[-1] != width or len(embeds) not in (1, batch):
        raise RequestError(
            f"text_embeds: found shape {list(text_embeds.shape)}, expected [{batch}, {width}] or "
            f"[{batch}, words, {width}]; text_embed_dim sets the width"
        )
    return embeds.expand(batch, -1, -1)


def read_head(given: Mapping[str, int] | None, *, heads: int, dim_head: int) -> dict[str, int]:
    """`attn_depth`, `attn_heads` and `attn_dim_head` of the decoder over action tokens.

    Raises:
        ValueError: another name is given.
    """
    head = {"attn_depth": 2, "attn_heads": heads, "attn_dim_head": dim_head} | dict(given or {})
    if len(head) > 3:
        raise ValueError(f"q_head_attn_kwargs: found {sorted(head)}, expected attn_depth, attn_heads, attn_dim_head")
    return head
