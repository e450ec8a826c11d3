"""Backbones of timm and transformers as vision towers.

Legend: B batch, C channels of the images or of the condition, H x W pixels, D features, h x w positions of a map,
P = h * w, N tokens of a vision transformer.
"""

from __future__ import annotations

import inspect
import json
from typing import Any, cast

import torch
from torch import Tensor, nn

from qseq.errors import RequestError
from qseq.networks.vision.config import BackboneConfig
from qseq.networks.vision.film import FiLM, NullCondition, resolve_conditions
from qseq.networks.vision.in_parts import in_parts
from qseq.networks.vision.tower import prepare_images

_BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)
_IMAGES_AT_ONCE = 2


class BackboneTower(nn.Module):
    """A backbone's last feature map, scaled and shifted by the instruction (FiLM after the backbone).

    Batch norm never uses or updates statistics of a batch: a batch of windows holds many frames of few scenes, and the
    moving average of the weights, which targets are made with, would see other statistics. So it runs with those of the
    published weights, and in a backbone that starts from random weights it does not normalise; there prefer one with
    layer or group norm (ConvNeXt, vision transformers). Heads and poolers, which the map does not depend on, are not
    trained.

    Args:
        tower: "timm:NAME" or "transformers:NAME_OR_PATH".
        config: with `description` filled in.
        channels: C of the images.
        size: (H, W) of the images.
        condition_dim: size of the instruction embedding; None for a tower that takes none.
        checkpoint_activations: in training, compute activations again when going backwards.

    Raises:
        RequestError: the library is not installed, or the backbone not found.
        ValueError: the backbone does not take such images.
    """

    mean_C11: Tensor
    std_C11: Tensor

    def __init__(
        self,
        tower: str,
        config: BackboneConfig,
        *,
        channels: int,
        size: tuple[int, int],
        condition_dim: int | None = None,
        checkpoint_activations: bool = False,
    ) -> None:
        super().__init__()
        if len(config.mean) not in (1, channels) or len(config.std) not in (1, channels):
            raise ValueError(
                f"network.vision.backbone has {len(config.mean)} means and {len(config.std)} deviations for images of "
                f"{channels} channels, expected one for each or one for all"
            )
        self.name = tower
        self.channels = channels
        self.condition_dim = condition_dim
        self.frozen = config.frozen
        self.checkpoint_activations = checkpoint_activations
        make = _TimmBackbone if tower.startswith("timm:") else _TransformersBackbone
        self.backbone: nn.Module = make(tower, config, channels, size, checkpoint_activations)
        # prepare_images centres to [-0.5, 0.5].
        self.register_buffer("mean_C11", torch.tensor(config.mean)[:, None, None] - 0.5, persistent=False)
        self.register_buffer("std_C11", torch.tensor(config.std)[:, None, None], persistent=False)
        self._sizes: dict[tuple[int, int], tuple[int, int]] = {}
        self.out_dim = self._try(size)
        self.null_condition = NullCondition(condition_dim) if condition_dim is not None else None
        self.film = FiLM(condition_dim, self.out_dim) if condition_dim is not None else None

    def train(self, mode: bool = True) -> BackboneTower:
        super().train(mode)
        for module in self.backbone.modules():
            if self.frozen or isinstance(module, _BATCH_NORMS):
                module.training = False
        return self

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        """Pixels of an image -> positions (h, w) of its feature map, found by trying.

        Raises:
            ValueError: the backbone does not take such images.
        """
        if (height, width) not in self._sizes:
            with torch.no_grad():
                self._map(torch.zeros(1, self.channels, height, width, device=self.std_C11.device))
        return self._sizes[height, width]

    def forward(self, images_BCHW: Tensor, conditions: Tensor | None = None, return_embeddings: bool = True) -> Tensor:
        """Feature map `[B, out_dim, h, w]`; see `ConvTower.forward`."""
        images_BCHW = prepare_images(images_BCHW, channels=self.channels, dtype=self.std_C11.dtype)
        conditions_BC = resolve_conditions(self.null_condition, conditions, batch=images_BCHW.shape[0])
        map_BDhw = self._map((images_BCHW - self.mean_C11) / self.std_C11)
        if self.film is None or conditions_BC is None:
            return map_BDhw
        out: Tensor = self.film(map_BDhw, conditions_BC)
        return out

    def _map(self, images_BCHW: Tensor) -> Tensor:
        height, width = images_BCHW.shape[2:]
        try:
            map_BDhw = self._features(images_BCHW)
        except (ValueError, RuntimeError, AssertionError, TypeError) as error:
            if (height, width) in self._sizes:
                raise
            raise ValueError(
                f"the backbone {self.name} does not take images of {self.channels} x {height} x {width} "
                f"({' '.join(str(error).split())[:200]})"
            ) from error
        self._sizes[height, width] = (map_BDhw.shape[2], map_BDhw.shape[3])
        return map_BDhw

    def _features(self, images_BCHW: Tensor) -> Tensor:
        recompute = self.checkpoint_activations and self.training and torch.is_grad_enabled()
        if not recompute or getattr(self.backbone, "checkpoints", False):
            whole_BDhw: Tensor = self.backbone(images_BCHW)
            return whole_BDhw
        # A backbone that cannot forget its layers one by one is computed again for a few images at a time.
        return in_parts(self.backbone, images_BCHW, at_once=_IMAGES_AT_ONCE, recompute=True)

    def _try(self, size: tuple[int, int]) -> int:
        """Features of the map. Marks what it does not depend on, as waiting for a gradient of that would be in vain."""
        self.eval()
        parameters = [parameter for parameter in self.backbone.parameters() if parameter.requires_grad]
        map_BDhw = self._map(torch.zeros(1, self.channels, *size))
        gradients = torch.autograd.grad(map_BDhw.sum(), parameters, allow_unused=True)
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.requires_grad_(gradient is not None and not self.frozen)
        self.train()
        return map_BDhw.shape[1]


def describe_backbone(tower: str) -> str:
    """The backbone's own configuration as JSON, read from the Hub or a folder; for timm its name says all.

    Raises:
        RequestError: the library is not installed, or it does not know the backbone.
    """
    library, _, name = tower.partition(":")
    if library == "timm":
        if not _timm().is_model(name):
            raise RequestError(f"network.vision.tower: timm knows no model '{name}'; see timm.list_models()")
        return json.dumps({"timm": name})
    transformers = _transformers(tower)
    try:
        config = transformers.AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"network.vision.tower: found no configuration of '{name}' on this machine or the Hub, expected a folder "
            f"or a repository of a vision model ({' '.join(str(error).split())[:160]})"
        ) from error
    return json.dumps((getattr(config, "vision_config", None) or config).to_dict(), default=str)


class _TransformersBackbone(nn.Module):
    """A vision model of transformers: its last hidden state as a map."""

    def __init__(
        self, tower: str, config: BackboneConfig, channels: int, size: tuple[int, int], checkpoint_activations: bool
    ) -> None:
        super().__init__()
        transformers = _transformers(tower)
        description = json.loads(config.description)
        own = transformers.AutoConfig.for_model(description.pop("model_type"), **description)
        if config.pretrained:
            if getattr(own, "num_channels", channels) != channels:
                raise ValueError(
                    f"images have {channels} channels, expected {own.num_channels} as the published weights of {tower}"
                )
            self.model = _published(transformers, tower)
        else:
            own.num_channels = channels
            self.model = transformers.AutoModel.from_config(own)
        self.checkpoints = checkpoint_activations and bool(
            getattr(self.model, "supports_gradient_checkpointing", False)
        )
        if self.checkpoints:
            cast(Any, self.model).gradient_checkpointing_enable({"use_reentrant": False})
        parameters = inspect.signature(self.model.forward).parameters
        # Positions are learnt for the size of image that the description names.
        self.options = {"interpolate_pos_encoding": True} if "interpolate_pos_encoding" in parameters else {}

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """`[B, D, h, w]`. Tokens of classes and registers, which come before the patches, are left out."""
        hidden: Tensor = self.model(images_BCHW, **self.options).last_hidden_state
        if hidden.ndim == 4:
            return hidden
        rows, columns = self._grid(hidden.shape[1], *images_BCHW.shape[2:])
        patches_BPD = hidden[:, hidden.shape[1] - rows * columns :]
        return patches_BPD.transpose(1, 2).reshape(hidden.shape[0], -1, rows, columns)

    def _grid(self, tokens: int, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of N tokens: one a patch and a few before them, or fewer where stages merge patches."""
        patch = getattr(self.model.config, "patch_size", 1)
        patch = patch if isinstance(patch, int) else patch[0]
        stride = patch
        while stride <= min(height, width):
            rows, columns = height // stride, width // stride
            extra = tokens - rows * columns
            if extra == 0 or (stride == patch and 0 < extra <= 16):
                return rows, columns
            stride *= 2
        raise ValueError(f"{tokens} tokens for {height} x {width} pixels are no map of patches")


class _TimmBackbone(nn.Module):
    """A model of timm: the last of the maps that `features_only` gives."""

    def __init__(
        self, tower: str, config: BackboneConfig, channels: int, size: tuple[int, int], checkpoint_activations: bool
    ) -> None:
        super().__init__()
        name = tower.partition(":")[2]
        arguments: dict[str, Any] = {"pretrained": config.pretrained, "in_chans": channels, "features_only": True}
        try:
            self.model = _timm().create_model(name, **arguments, img_size=size)
        except TypeError:  # convolutional models take images of any size and no such argument
            self.model = _timm().create_model(name, **arguments)
        self.checkpoints = checkpoint_activations and hasattr(self.model, "set_grad_checkpointing")
        if self.checkpoints:
            self.model.set_grad_checkpointing(True)
        self.channels_last = str(getattr(self.model, "output_fmt", "NCHW")).endswith("NHWC")

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """`[B, D, h, w]`."""
        last: Tensor = self.model(images_BCHW)[-1]
        return last.permute(0, 3, 1, 2) if self.channels_last else last


def _published(transformers: Any, tower: str) -> nn.Module:
    name = tower.partition(":")[2]
    try:
        model = transformers.AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise RequestError(
            f"network.vision.tower: the weights of '{name}' are neither on this machine nor to be had from the Hub "
            f"({' '.join(str(error).split())[:160]}); network.vision.backbone.pretrained=false starts from random ones"
        ) from error
    # Of a model of images and text the half that sees.
    vision: nn.Module = getattr(model, "vision_model", model)
    return vision


def _transformers(tower: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise RequestError(
            f"network.vision.tower: '{tower}' needs transformers, which is not installed: pip install 'qseq[vision]'"
        ) from error
    return transformers


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise RequestError("network.vision.tower: timm is not installed: pip install 'qseq[vision]'") from error
    except RuntimeError as error:
        # timm imports torchvision, which does not load beside another build of torch than its own.
        raise RequestError(
            f"network.vision.tower: timm cannot be imported ({' '.join(str(error).split())[:120]}); install the "
            "torchvision of this build of torch, from the index torch came from"
        ) from error
    return timm
