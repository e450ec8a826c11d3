"""Towers by name: what the configuration says is what is built, and other libraries' backbones keep the interface."""

from __future__ import annotations

import builtins
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from qseq.errors import ConfigError, RequestError
from qseq.networks.vision import (
    BackboneConfig,
    BackboneTower,
    ConvTower,
    MaxViT,
    MaxViTConfig,
    VisionConfig,
    make_tower,
)
from qseq.networks.vision.config import MODULE

SMALL = {"hidden_sizes": [8, 16], "depths": [1, 1]}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
# model type -> (its sizes, features and side of the map of an image of 32 x 32)
BACKBONES = {
    "convnext": ({**SMALL, "num_stages": 2}, 16, 4),
    "resnet": ({**SMALL, "embedding_size": 8}, 16, 4),
    "vit": (VIT, 16, 4),
    "dinov2": (VIT, 16, 4),
    "dinov2_with_registers": (VIT, 16, 4),
    "siglip_vision_model": (VIT, 16, 4),
    "clip_vision_model": (VIT, 16, 4),
    "swin": ({"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "patch_size": 4}, 16, 4),
}

# Without dropout, so that the gradients are those of one function.
EFFICIENTNET = {
    "width_coefficient": 0.1,
    "depth_coefficient": 0.1,
    "hidden_dim": 128,
    "dropout_rate": 0.0,
    "drop_connect_rate": 0.0,
}


def backbone(kind: str, **options: Any) -> BackboneTower:
    pytest.importorskip("transformers")
    torch.manual_seed(0)
    description = json.dumps({"model_type": kind, **BACKBONES[kind][0]})
    config = BackboneConfig(description=description, **options)
    return BackboneTower(f"transformers:{kind}", config, channels=3, size=(32, 32), condition_dim=6)


def test_the_configuration_names_the_tower() -> None:
    conv = make_tower(VisionConfig(), (3, 16, 16), 6)
    assert isinstance(conv, ConvTower)
    sizes = MaxViTConfig(dim=8, depth=(1,), dim_head=4, window_size=2)
    vit = make_tower(VisionConfig(tower="maxvit", maxvit=sizes, checkpoint_activations=True), (3, 16, 16), 6)
    assert isinstance(vit, MaxViT)
    assert vit.checkpoint_activations
    assert vit.config == sizes
    assert vit(torch.rand(2, 3, 16, 16), torch.zeros(2, 6)).shape == (2, 8, 4, 4)


@pytest.mark.parametrize("name", ["resnet18", "timm:", "transformers:", "hf:x"])
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"network.vision.tower: found '{name}', expected conv, maxvit, timm:NAME"):
        VisionConfig(tower=name)


def test_a_tower_that_was_a_module_is_not_made_up() -> None:
    with pytest.raises(RequestError, match="found a MyTower that was given as a module"):
        make_tower(VisionConfig(tower=MODULE + "MyTower"), (3, 16, 16), 6)


@pytest.mark.parametrize("kind", BACKBONES)
def test_every_backbone_gives_a_map_of_what_lies_where(kind: str) -> None:
    tower = backbone(kind)
    _, dim, side = BACKBONES[kind]
    assert tower.out_dim == dim
    assert tower.feature_size(32, 32) == (side, side)
    image = torch.rand(2, 3, 32, 32)
    features = tower.eval()(image, torch.zeros(2, 6))
    assert features.shape == (2, dim, side, side)
    # A token of a class or register in the place of a patch would change little where the image changes.
    changed = image.clone()
    changed[:, :, :8, 24:] = 1 - changed[:, :, :8, 24:]
    difference = (tower(changed, torch.zeros(2, 6)) - features).abs().sum((0, 1))
    assert difference.flatten().argmax().item() == side - 1  # the first row's last position
    torch.testing.assert_close(
        tower((image * 255).round().to(torch.uint8), torch.zeros(2, 6)), features, atol=0.1, rtol=0
    )


@pytest.mark.parametrize("kind", BACKBONES)
def test_all_that_the_map_depends_on_is_trained_and_nothing_else_waits_for_a_gradient(kind: str) -> None:
    tower = backbone(kind)
    tower(torch.rand(2, 3, 32, 32), torch.randn(2, 6)).square().sum().backward()
    waiting = [name for name, p in tower.named_parameters() if p.requires_grad and p.grad is None]
    assert not waiting
    assert sum(p.requires_grad for p in tower.backbone.parameters()) > 4


def test_a_frozen_backbone_keeps_its_weights_and_its_instruction_layer_learns() -> None:
    tower = backbone("vit", frozen=True)
    assert not any(p.requires_grad for p in tower.backbone.parameters())
    assert tower.film is not None
    assert all(p.requires_grad for p in tower.film.parameters())
    tower.train()
    assert not any(module.training for module in tower.backbone.modules())


def test_batch_norm_never_reads_or_changes_statistics_of_a_batch() -> None:
    tower = backbone("resnet")
    norms = [module for module in tower.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms
    before = [norm.running_mean.clone() for norm in norms if norm.running_mean is not None]
    tower.train()
    images, conditions = torch.rand(3, 3, 32, 32), torch.zeros(3, 6)
    together = tower(images, conditions)
    torch.testing.assert_close(tower(images[:1], conditions[:1]), together[:1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(tower.eval()(images, conditions), together)
    for norm, mean in zip(norms, before, strict=True):
        assert norm.running_mean is not None
        assert torch.equal(norm.running_mean, mean)


def test_the_instruction_scales_and_shifts_the_map() -> None:
    tower = backbone("convnext").eval()
    images, conditions = torch.rand(2, 3, 32, 32), torch.randn(2, 6)
    plain = tower(images, conditions)
    assert tower.film is not None
    with torch.no_grad():
        tower.film.to_scale_shift.bias[:16] = 1.0  # scale by 2
        tower.film.to_scale_shift.bias[16:] = 3.0
    torch.testing.assert_close(tower(images, conditions), 2 * plain + 3)


def test_activations_computed_again_give_the_same_gradients() -> None:
    def gradients(**options: Any) -> list[torch.Tensor]:
        torch.manual_seed(0)
        tower = make_tower(VisionConfig(dim=8, depth=(1, 1), **options), (3, 16, 16), 6)
        tower(torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)), torch.ones(2, 6)).sum().backward()
        return [p.grad for p in tower.parameters() if p.grad is not None]

    for kept, computed in zip(gradients(), gradients(checkpoint_activations=True), strict=True):
        torch.testing.assert_close(computed, kept)


@pytest.mark.parametrize("kind", ["vit", "efficientnet"])
def test_a_backbone_is_computed_again_whether_or_not_it_can_do_so_itself(kind: str) -> None:
    """EfficientNet has no checkpoints of its own: a few images at a time are computed again, and no more are kept."""
    sizes = BACKBONES[kind][0] if kind in BACKBONES else EFFICIENTNET
    transformers = pytest.importorskip("transformers")
    own = transformers.AutoConfig.for_model(kind, **sizes)
    assert transformers.AutoModel.from_config(own).supports_gradient_checkpointing == (kind == "vit")
    images = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    found, most_images = [], []
    for again in (False, True):
        torch.manual_seed(0)
        config = BackboneConfig(description=json.dumps({"model_type": kind, **sizes}))
        tower = BackboneTower(
            f"transformers:{kind}", config, channels=3, size=(32, 32), condition_dim=6, checkpoint_activations=again
        )
        seen: list[int] = []
        tower.backbone.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(len(inputs[0])))
        tower(images, torch.ones(5, 6)).square().sum().backward()
        found.append({name: p.grad for name, p in tower.named_parameters() if p.grad is not None})
        most_images.append(max(seen))
    assert most_images == ([5, 5] if kind == "vit" else [5, 2])
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4, rtol=1e-4)


def test_images_of_another_size_are_refused_in_one_line() -> None:
    tower = backbone("swin")
    with pytest.raises(ValueError, match="has 2 means") as error:
        BackboneTower("transformers:x", BackboneConfig(mean=(0.1, 0.2)), channels=3, size=(32, 32))
    assert "\n" not in str(error.value)
    with pytest.raises(ValueError, match="does not take images of 3 x 1 x 1"):
        tower.feature_size(1, 1)


def test_a_folder_of_a_configuration_is_enough_and_is_not_needed_again(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    transformers.ViTConfig(**VIT, image_size=32).save_pretrained(tmp_path / "vit")
    from qseq.networks.vision import resolve_vision

    config = resolve_vision(VisionConfig(tower=f"transformers:{tmp_path / 'vit'}"))
    (tmp_path / "vit" / "config.json").unlink()
    assert make_tower(config, (3, 32, 32), None)(torch.rand(1, 3, 32, 32)).shape == (1, 16, 4, 4)
    with pytest.raises(RequestError, match=r"network.vision.tower: found no configuration of '.*vit'"):
        resolve_vision(VisionConfig(tower=f"transformers:{tmp_path / 'vit'}"))


def test_published_weights_are_read_and_their_absence_is_said(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.ConvNextConfig(**BACKBONES["convnext"][0])
    model = transformers.AutoModel.from_config(config)
    model.save_pretrained(tmp_path / "published")
    source = f"transformers:{tmp_path / 'published'}"
    vision = VisionConfig(tower=source, backbone=BackboneConfig(pretrained=True))
    tower = make_tower(vision, (3, 32, 32), None)
    for name, weight in model.state_dict().items():
        torch.testing.assert_close(tower.backbone.model.state_dict()[name], weight)
    (tmp_path / "published" / "model.safetensors").unlink()
    with pytest.raises(RequestError, match=r"the weights of '.*published' are neither on this machine"):
        make_tower(vision, (3, 32, 32), None)


@pytest.mark.parametrize("library", ["timm", "transformers"])
def test_a_library_that_is_not_installed_is_named_with_what_to_do(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *rest: Any, **options: Any) -> Any:
        if name.partition(".")[0] == library:
            raise ImportError(name)
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RequestError, match=rf"{library}.* not installed: pip install 'qseq\[vision\]'"):
        make_tower(VisionConfig(tower=f"{library}:anything"), (3, 32, 32), None)


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224", "swin_tiny_patch4_window7_224"])
def test_backbones_of_timm(name: str) -> None:
    try:
        tower = make_tower(VisionConfig(tower=f"timm:{name}"), (3, 64, 64), 6)
    except RequestError as error:  # timm needs the torchvision of the very build of torch
        pytest.skip(str(error))
    features = tower(torch.rand(2, 3, 64, 64), torch.zeros(2, 6))
    assert features.shape == (2, tower.out_dim, *tower.feature_size(64, 64))  # type: ignore[operator]
    with pytest.raises(RequestError, match="timm knows no model 'nothing'"):
        make_tower(VisionConfig(tower="timm:nothing"), (3, 64, 64), 6)
