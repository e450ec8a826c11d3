"""From a configuration to a tower."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

from qseq.errors import RequestError
from qseq.networks.vision.backbone import BackboneTower, describe_backbone
from qseq.networks.vision.config import BACKBONES, MODULE, VisionConfig
from qseq.networks.vision.maxvit import MaxViT
from qseq.networks.vision.small import ConvTower


def resolve_vision(config: VisionConfig) -> VisionConfig:
    """The same with everything noted that making the tower again needs.

    Raises:
        RequestError: a backbone of a library that is not installed, or one that is not found.
    """
    if not config.tower.startswith(BACKBONES) or config.backbone.description:
        return config
    return replace(config, backbone=replace(config.backbone, description=describe_backbone(config.tower)))


def make_tower(config: VisionConfig, shape: tuple[int, ...], condition_dim: int | None) -> nn.Module:
    """A new tower (`VisionTower`) for frames of shape (C, H, W).

    Raises:
        ValueError: sizes that do not fit together.
        RequestError: a backbone that cannot be had.
    """
    channels, height, width = shape
    if config.tower.startswith(MODULE):
        raise RequestError(
            f"network.vision.tower: found a {config.tower.removeprefix(MODULE)} that was given as a module, expected a "
            "tower that a configuration describes: make the model again with the same `vit` and read the weights with "
            "qseq.training.load_weights"
        )
    if config.tower.startswith(BACKBONES):
        config = resolve_vision(config)
        return BackboneTower(
            config.tower,
            config.backbone,
            channels=channels,
            size=(height, width),
            condition_dim=condition_dim,
            checkpoint_activations=config.checkpoint_activations,
        )
    if config.tower == "maxvit":
        sizes = {name: getattr(config.maxvit, name) for name in config.maxvit.__dataclass_fields__}
        return MaxViT(
            num_classes=0,
            channels=channels,
            condition_dim=condition_dim,
            checkpoint_activations=config.checkpoint_activations,
            **sizes,
        )
    return ConvTower(
        dim=config.dim,
        depth=config.depth,
        patch=config.patch,
        gated=config.gated,
        channels=channels,
        condition_dim=condition_dim,
        checkpoint_activations=config.checkpoint_activations,
    )
