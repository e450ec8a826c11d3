"""QRoboticTransformer built with `vit`: films, instructions and their embeddings, saving."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qseq import MaxViT, QLearner, QRoboticTransformer, load_policy
from qseq.errors import RequestError
from qseq.networks.vision import ConvTower, VisionConfig
from qseq.training import load_weights
from tests.networks.tiny_text import WIDTH, write_text_encoder
from tests.robot.bandit import write_view
from tests.robot.test_pixels import SIDES, episodes

B, C, F, SIDE, A, K = 2, 3, 3, 16, 3, 8
VIT = {"num_classes": 10, "dim": 8, "depth": (1,), "dim_head": 4, "heads": 2, "window_size": 4, "dropout": 0.0}
TEXTS = ["push the puck", "wave"]


def make_model(vit: Any = VIT, **options: Any) -> QRoboticTransformer:
    torch.manual_seed(0)
    sizes = {"num_actions": A, "action_bins": K, "dim": 16, "heads": 2, "dim_head": 8, "history": F}
    return QRoboticTransformer(vit=vit, **(sizes | options)).eval()


def film() -> Tensor:
    return torch.rand(B, C, F, SIDE, SIDE, generator=torch.Generator().manual_seed(1))


class MeanTower(nn.Module):
    """The smallest module with the interface of a tower: means of patches of 8 x 8."""

    channels, out_dim, condition_dim = C, C, None

    def feature_size(self, height: int, width: int) -> tuple[int, int]:
        return height // 8, width // 8

    def forward(self, images: Tensor, conditions: Tensor | None = None, return_embeddings: bool = False) -> Tensor:
        assert conditions is None
        return nn.functional.avg_pool2d(images.float(), 8)


@pytest.mark.parametrize(
    "vit",
    [
        VIT,
        MaxViT(**VIT),  # type: ignore[arg-type]
        MaxViT(**VIT, condition_dim=16),  # type: ignore[arg-type]
        ConvTower(dim=4, depth=(1,), condition_dim=16),
        ConvTower(dim=4, depth=(1,)),
        MeanTower(),
    ],
    ids=["mapping", "maxvit", "conditioned maxvit", "conditioned conv", "conv", "other"],
)
def test_a_film_goes_through_any_tower_and_the_instruction_reaches_it(vit: Any) -> None:
    model = make_model(vit, image_size=SIDE)
    actions = torch.randint(0, K, (B, A))
    values = model(film(), TEXTS, actions)
    assert values.shape == (B, A, K)
    torch.testing.assert_close(model({"image": film().transpose(1, 2)}, TEXTS, actions), values)
    model.train()
    model(film(), TEXTS, actions).sum().backward()
    camera = model.encoder.encoders[0]
    films = [name for name, _ in camera.named_parameters() if "film" in name or "to_scale_shift" in name]
    assert films
    trained = set(dict(model.named_parameters())) - {n for n, p in model.named_parameters() if p.grad is None}
    untrained = {name for name in set(dict(model.named_parameters())) - trained if not name.startswith("folded_value")}
    assert not untrained  # no class head waits for a gradient


def test_frames_stand_in_their_order() -> None:
    model = make_model()
    values = model(film(), TEXTS)
    assert not torch.allclose(model(film().flip(2), TEXTS), values)


def test_the_defaults_are_the_papers() -> None:
    model = QRoboticTransformer(vit={"dim": 8, "depth": (1, 1, 1, 1), "dim_head": 8}, num_actions=2, action_bins=4)
    assert model.field_shapes == {"image": (3, 224, 224)}
    assert model.encoder.history == 6
    assert model.config.vision.tokens == 8
    assert model.config.text.film


def test_every_argument_means_something() -> None:
    model = make_model(
        token_learner_num_output_tokens=3,
        token_learner_ff_mult=4,
        token_learner_num_layers=3,
        cond_drop_prob=0.25,
        use_attn_conditioner=True,
        conditioner_kwargs={"vocabulary": 64},
    )
    learner = model.encoder.encoders[0].token_learner
    assert learner.num_output_tokens == 3
    assert [layer.weight.shape[0] for layer in learner.to_logits if isinstance(layer, nn.Linear)] == [32, 32, 3]
    text = model.config.text
    assert (text.drop_probability, text.cross_attention, text.film, text.vocabulary) == (0.25, True, False, 64)
    assert model.encoder.instruction.words.num_embeddings == 64
    assert model.encode_state(film(), TEXTS).shape == (B, 1 + F * 3, 16)
    dropped = model.train().embed_instructions(model.text_inputs(["push"]), torch.zeros(1000, dtype=torch.long))
    share = (dropped.summary_BD == model.encoder.instruction.null_D).all(1).float().mean().item()
    assert share == pytest.approx(0.25, abs=0.05)


def test_plain_and_fused_attention_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    """Long contexts use torch's kernels: with flash_attn=False only the plain one may run."""
    enabled: list[bool] = []
    real = nn.functional.scaled_dot_product_attention

    def watched(*arguments: Any, **options: Any) -> Tensor:
        enabled.append(torch.backends.cuda.flash_sdp_enabled())
        return real(*arguments, **options)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", watched)
    fused, plain = (make_model(flash_attn=flash, token_learner_num_output_tokens=20) for flash in (True, False))
    expected = fused(film(), TEXTS)
    assert enabled
    assert all(enabled)
    enabled.clear()
    torch.testing.assert_close(plain(film(), TEXTS), expected, atol=1e-5, rtol=1e-4)
    plain.get_optimal_actions(film(), TEXTS)
    assert enabled
    assert not any(enabled)
    assert torch.backends.cuda.flash_sdp_enabled()  # as it was before


def test_embeddings_of_any_width_are_projected() -> None:
    model = make_model(text_embed_dim=768)
    embeds = torch.randn(B, 768)
    values = model(film(), text_embeds=embeds)
    assert not torch.allclose(values, model(film(), text_embeds=-embeds))
    torch.testing.assert_close(model(film(), text_embeds=embeds[:, None]), values)
    torch.testing.assert_close(model(film(), text_embeds=torch.zeros(B, 768)), model(film()))  # nothing is said
    assert model.embed_texts(TEXTS).shape == (B, 768)
    torch.testing.assert_close(model(film(), text_embeds=model.embed_texts(TEXTS)), model(film(), TEXTS))
    with pytest.raises(RequestError, match=r"text_embeds: found shape \[2, 512\], expected \[2, 768\]"):
        model(film(), text_embeds=torch.randn(B, 512))


def test_a_frozen_encoder_reads_the_texts_and_is_no_part_of_the_weights(tmp_path: Path) -> None:
    name = write_text_encoder(tmp_path / "encoder")
    model = make_model(conditioner_kwargs={"encoder": name}, use_attn_conditioner=True)
    texts = ["push the red puck", "pull"]
    assert model.embed_texts(texts).shape == (B, 5, WIDTH)
    torch.testing.assert_close(model(film(), text_embeds=model.embed_texts(texts)), model(film(), texts))
    assert not [key for key in model.state_dict() if "bert" in key.lower() or "layer.0" in key]
    assert model.config.text.revision


def test_actions_are_greedy_random_or_mixed_and_guided() -> None:
    model = make_model(cond_drop_prob=0.2)
    tokens, values = model.get_optimal_actions(film(), TEXTS, return_q_values=True)
    assert torch.equal(tokens, values.argmax(-1))
    torch.testing.assert_close(model(film(), TEXTS, tokens), values, atol=1e-5, rtol=1e-4)
    prefix = torch.full((B, 1), 5)
    assert (model.get_optimal_actions(film(), TEXTS, prefix)[:, 0] == 5).all()
    assert torch.equal(model.get_actions(film(), TEXTS), tokens)
    assert model.get_random_actions(7).shape == (7, A)
    guided, values = model.get_optimal_actions(film(), TEXTS, cond_scale=4.0, return_q_values=True)
    torch.testing.assert_close(model(film(), TEXTS, guided, cond_scale=4.0), values, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(values, model(film(), TEXTS, guided))
    torch.testing.assert_close(model(film(), TEXTS, guided, cond_scale=0.0), model(film(), None, guided))


def test_scale_one_is_the_conditional_model_and_costs_one_pass() -> None:
    model = make_model(cond_drop_prob=0.2)
    images = []
    model.encoder.encoders[0].tower.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    expected = model(film(), TEXTS)
    assert images == [B * F]
    assert torch.equal(model(film(), TEXTS, cond_scale=1.0), expected)
    assert images == [B * F] * 2
    model(film(), TEXTS, cond_scale=2.0)
    assert images == [B * F] * 4


@pytest.mark.parametrize(
    ("arguments", "options", "line"),
    [
        ({"vit": {**VIT, "width": 3}}, {}, r"vit: found 'width', expected some of \['channels', 'depth'"),
        ({"vit": MeanTower()}, {}, "image_size: found None, expected the pixels of a side for MeanTower"),
        ({"conditioner_kwargs": {"model": "t5"}}, {}, r"conditioner_kwargs: found 'model', expected some of"),
        ({"condition_on_text": False}, {"texts": TEXTS}, "the model has condition_on_text=False"),
        ({}, {"texts": [*TEXTS, "no"]}, "texts: found 3 for a batch of 2"),
        ({}, {"state": film()[:, :, :2]}, r"field 'image' has 2 frames of shape \[3, 16, 16\], expected 3 of"),
        ({}, {"state": film().transpose(1, 2)[:, :2]}, r"\[batch, channels, frames, height, width\]"),
        ({}, {"state": film()[..., :8]}, r"3 frames of shape \[3, 16, 8\], expected 3 of \[3, 16, 16\]"),
        ({}, {"state": film() * 255}, r"images 'image' are float32 in \[.*\], expected uint8 in \[0, 255\] or floats"),
        ({}, {"state": {"wrist": film()}}, r"state: field 'image' is missing; found \['wrist'\]"),
    ],
)
def test_wrong_requests_are_one_line(arguments: dict[str, Any], options: dict[str, Any], line: str) -> None:
    with pytest.raises(RequestError, match=line) as error:
        make_model(**arguments)(**({"state": film()} | options))
    assert "\n" not in str(error.value)


def test_a_tower_of_another_instruction_size_or_interface_is_refused() -> None:
    with pytest.raises(RequestError, match="condition_dim is 5, expected 16"):
        make_model(MaxViT(**VIT, condition_dim=5))  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="the tower reads instructions of size 5, expected 16"):
        make_model(ConvTower(condition_dim=5), image_size=SIDE)
    with pytest.raises(RequestError, match="the tower Linear has no 'out_dim', expected the interface of VisionTower"):
        make_model(nn.Linear(2, 2), image_size=SIDE)


def learner(model: QRoboticTransformer, folder: Path) -> QLearner:
    view = write_view(folder / "store", episodes(20), SIDES)
    return QLearner(model, dataset=view, num_train_steps=2, batch_size=4, checkpoint_folder=folder / "run")


@pytest.mark.parametrize("kind", ["mapping", "maxvit", "conditioned maxvit"])
@pytest.mark.parametrize("text", [{}, {"condition_on_text": False}, {"use_attn_conditioner": True}])
def test_policies_of_described_towers_are_saved_and_loaded(kind: str, text: dict[str, Any], tmp_path: Path) -> None:
    unconditional = text == {"condition_on_text": False}
    if unconditional and kind == "conditioned maxvit":
        with pytest.raises(RequestError, match="the tower reads instructions, expected one built without"):
            make_model(MaxViT(**VIT, condition_dim=16), **text)  # type: ignore[arg-type]
        return
    sizes: dict[str, Any] = VIT | ({"condition_dim": 16} if kind == "conditioned maxvit" else {})
    vit = VIT if kind == "mapping" else MaxViT(**sizes)
    model = make_model(vit, num_actions=1, action_bins=2, history=2, **text)
    trained = learner(model, tmp_path)
    trained()
    model.eval()
    told = None if unconditional else ["the red side", "the green side"]
    frames = {"image": np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16)).astype(np.uint8)}
    loaded = load_policy(tmp_path / "run")
    np.testing.assert_array_equal(loaded.act(frames, told), trained.policy.act(frames, told))
    window = {"image": torch.from_numpy(frames["image"])[:, None].expand(-1, 2, -1, -1, -1)}
    expected = model(window, told)
    torch.testing.assert_close(loaded.network(window, told), expected)  # type: ignore[attr-defined]
    film = window["image"].transpose(1, 2)
    torch.testing.assert_close(loaded.network(film, told), expected)  # type: ignore[attr-defined]


def test_a_policy_of_another_module_says_why_it_cannot_be_loaded(tmp_path: Path) -> None:
    tower = ConvTower(dim=4, depth=(1,), condition_dim=16)
    model = make_model(tower, image_size=SIDE, num_actions=1, action_bins=2)
    trained = learner(model, tmp_path)
    trained.save(tmp_path / "policy")
    with pytest.raises(RequestError, match=r"found a ConvTower that was given as a module.*load_weights"):
        load_policy(tmp_path / "policy")
    torch.manual_seed(9)
    again = make_model(ConvTower(dim=4, depth=(1,), condition_dim=16), image_size=SIDE, num_actions=1, action_bins=2)
    load_weights(again, tmp_path / "policy" / "model.safetensors")
    torch.testing.assert_close(again(film(), TEXTS), model.eval()(film(), TEXTS))


def test_fields_and_vit_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="give one of vit, state_dim and fields"):
        make_model(state_dim=3)
    assert make_model(vision=VisionConfig(tokens=2)).config.vision.tokens == 2
