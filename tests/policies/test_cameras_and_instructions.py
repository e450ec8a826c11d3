"""What a policy with a camera and instructions is told, and what it refuses."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq import load_policy
from qseq.actions import make_tokenizer
from qseq.configuration import from_dict, load_config
from qseq.episodes import Episode
from qseq.errors import RequestError
from qseq.evaluation.actors import PolicyActor
from qseq.networks import frozen_text
from qseq.networks.action_network import NetworkConfig
from qseq.policies import TokenPolicySpec
from qseq.policies.preparation import needs_instruction, open_view
from qseq.registry import get_algorithm
from qseq.robot import QTransformerPolicy
from qseq.robot.algorithm import make_trainer
from tests.networks.tiny_text import write_text_encoder
from tests.robot.bandit import write_view
from tests.robot.test_pixels import SIDES, TINY, episodes

SIZES = {"dim": 16, "heads": 2, "dim_head": 8, "decoder_heads": 2, "decoder_dim_head": 8}
TOLD = ["the red side", "the green side"]


def make_policy(
    *, text: dict[str, Any] | None = None, crop: int = 0, history: int = 2, chunk: int = 1, **options: Any
) -> QTransformerPolicy:
    """`looks_by_state=True` adds a field "state" of two numbers, which conditions the camera."""
    by_state = options.pop("looks_by_state", False)
    vision = {"dim": 4, "depth": [1], "tokens": 2, "condition_on_state": by_state}
    spec = TokenPolicySpec(
        network=from_dict(NetworkConfig, {**SIZES, "vision": vision, "text": text or {}}),
        fields={"image": (3, 16, 16), **({"state": (2,)} if by_state else {})},
        history=history,
        tokenizer=make_tokenizer(SIDES, num_bins=2, chunk=chunk),
        action_space=SIDES,
        extra={"value": {"kind": "bounded"}, "initial_value": 0.05, "value_folds": 1, "prior": False},
        needs_instruction=options.pop("needs_instruction", False),
        crop=crop,
        first_frame=options.pop("first_frame", False),
    )
    torch.manual_seed(0)
    return QTransformerPolicy(QTransformerPolicy.build_network(spec, spec.blank_layouts()), spec, **options)


def images(count: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 3, 16, 16)).astype(np.uint8)


@pytest.mark.parametrize(
    ("image", "line"),
    [
        (images().transpose(0, 2, 3, 1), r"shape \[2, 16, 16, 3\], expected \[3, 16, 16\].*; the channels come first"),
        (images()[0].transpose(1, 2, 0), "the channels come first"),
        (images()[..., :8], r"shape \[2, 3, 16, 8\], expected \[3, 16, 16\] or a batch of them$"),
        (images().astype(np.float32), r"'image' is float32 in \[0, 255\], expected uint8 in \[0, 255\] or floats in"),
        (images().astype(np.int64), r"'image' is int64, expected uint8 in \[0, 255\] or floats in \[0, 1\]"),
        (np.full((2, 3, 16, 16), np.nan, np.float32), r"'image' is float32 in \[nan, nan\]"),
        (images() / 127.5 - 1.0, r"'image' is float64 in \[-1, 1\]"),
    ],
)
def test_images_that_are_not_as_they_must_be_are_one_line(image: np.ndarray, line: str) -> None:
    with pytest.raises(RequestError, match=line) as error:
        make_policy().act({"image": image}, "push")
    assert "\n" not in str(error.value)


def test_floats_from_zero_to_one_are_the_same_as_bytes() -> None:
    policy = make_policy()
    windows = images()[:, None].repeat(2, 1)
    with torch.inference_mode():
        _, bytes_read = policy._encode({"image": windows}, ["", ""])
        _, floats_read = policy._encode({"image": (windows / 255).astype(np.float32)}, ["", ""])
    torch.testing.assert_close(bytes_read, floats_read, atol=1e-4, rtol=1e-3)


def test_instructions_that_are_missing_or_not_taken_are_one_line() -> None:
    several = make_policy(needs_instruction=True)
    for missing in (None, "", ["push", ""]):
        with pytest.raises(RequestError, match=r"instruction: found none, expected a text: .* several instructions"):
            several.act({"image": images()}, missing)
    assert several.act({"image": images()}, "push").shape == (2,)
    with pytest.raises(RequestError, match="instruction: found 3 texts for 2 observations"):
        several.act({"image": images()}, ["a", "b", "c"])
    silent = make_policy(text={"encoder": "none"})
    with pytest.raises(RequestError, match=r"found 'push', expected none: .* without instructions"):
        silent.act({"image": images()}, ["", "push"])
    assert silent.act({"image": images()}).shape == (2,)


def test_an_environment_that_talks_does_not_disturb_a_policy_that_reads_nothing() -> None:
    silent = make_policy(text={"encoder": "none"})
    observations = [{"image": image} for image in images()]
    assert len(PolicyActor(silent).act([0, 1], observations, ["push", "pull"])) == 2
    with pytest.raises(RequestError, match="expected none"):
        PolicyActor(silent, instruction="push").act([0, 1], observations, ["", ""])


def test_when_an_instruction_is_needed(tmp_path: Path) -> None:
    several = write_view(tmp_path / "several", episodes(20), SIDES)
    one = write_view(tmp_path / "one", [replace(e, instruction="go") for e in episodes(3)], SIDES)
    some = write_view(tmp_path / "some", [*episodes(20), replace(episodes(1)[0], instruction="")], SIDES)

    def config(**text: Any) -> NetworkConfig:
        return from_dict(NetworkConfig, {"text": text})

    assert needs_instruction(several, config())
    assert not needs_instruction(several, config(drop_probability=0.1))  # it learns what to do without
    assert not needs_instruction(several, config(encoder="none"))
    assert not needs_instruction(one, config())
    assert not needs_instruction(some, config())


def test_guidance_is_an_option_of_a_policy_that_knows_the_null_instruction(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"cond_scale: found 2.0, expected 1: .*drop_probability=0"):
        make_policy(cond_scale=2.0)
    policy = make_policy(text={"drop_probability": 0.2})
    policy.save_pretrained(tmp_path / "policy")
    guided = load_policy(tmp_path / "policy", cond_scale=5.0)
    actions = np.zeros(4, np.int64)
    plain, more, again = (
        p.action_values({"image": images(5)}, "push", actions)  # type: ignore[attr-defined]
        for p in (policy, guided, load_policy(tmp_path / "policy", cond_scale=1.0))
    )
    np.testing.assert_array_equal(plain, again)
    assert np.abs(more - plain).max() > 1e-6
    assert guided.act({"image": images()}, "push").shape == (2,)


def test_a_policy_of_crops_sees_the_middle(tmp_path: Path) -> None:
    policy = make_policy(crop=8)
    assert policy.observation_fields == {"image": (3, 16, 16)}
    assert policy.network.field_shapes == {"image": (3, 8, 8)}
    border = images(4)
    border[..., 4:12, 4:12] = 0
    values = [
        policy.action_values({"image": frames}, "push", np.zeros(3, np.int64))
        for frames in (border, np.zeros_like(border))
    ]
    np.testing.assert_allclose(values[0], values[1], atol=1e-6)
    policy.save_pretrained(tmp_path / "policy")
    np.testing.assert_array_equal(
        load_policy(tmp_path / "policy").act({"image": images()}), make_policy(crop=8).act({"image": images()})
    )


def train(tmp_path: Path, tree: dict[str, Any], algorithm: str = "q-transformer", steps: int = 3) -> Path:
    write_view(tmp_path / "store", episodes(20), SIDES)
    found = get_algorithm(algorithm)
    merged = {**TINY, "training": {**TINY["training"], "steps": steps, "warmup_steps": 1}, **tree}  # type: ignore[dict-item]
    if algorithm != "q-transformer":
        merged.pop("objective")
    config = from_dict(found.config_class, merged)
    found.train(config, data=[str(tmp_path / "store")], run=tmp_path / "run", seed=0)
    return tmp_path / "run"


def network(**options: Any) -> dict[str, Any]:
    return {"network": {**TINY["network"], **options}}  # type: ignore[dict-item]


@pytest.mark.parametrize("algorithm", ["q-transformer", "bc"])
def test_random_crops_are_trained_on_and_acted_with(algorithm: str, tmp_path: Path) -> None:
    run = train(tmp_path, {"data": {"random_crop": 12}}, algorithm)
    policy = load_policy(run)
    assert policy.observation_fields == {"image": (3, 16, 16)}
    assert policy.act({"image": images()}, TOLD).shape == (2,)
    with pytest.raises(RequestError, match=r"random_crop, data.random_shift: found 12 and 2, expected one of them"):
        train(tmp_path / "both", {"data": {"random_crop": 12, "random_shift": 2}}, algorithm)


@pytest.mark.parametrize("algorithm", ["q-transformer", "bc"])
def test_a_frozen_encoder_is_asked_once_per_instruction_of_the_data(
    algorithm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    real = frozen_text.FrozenTextEncoder.embed

    def embed(self: Any, texts: Any) -> Any:
        asked.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(frozen_text.FrozenTextEncoder, "embed", embed)
    encoder = write_text_encoder(tmp_path / "encoder")
    text = {"encoder": encoder, "cross_attention": True, "film": True, "drop_probability": 0.1}
    run = train(tmp_path, network(text=text), algorithm, steps=5)
    assert sorted(asked) == sorted(TOLD)
    assert len(list((tmp_path / "store" / "instruction_embeddings").rglob("*.safetensors"))) == 2
    asked.clear()
    # A second run reads what the first one kept, and a store with embeddings beside it is a store all the same.
    config = from_dict(get_algorithm("q-transformer").config_class, {**TINY, **network(text=text)})
    make_trainer(config, open_view([str(tmp_path / "store")], config.data), run=tmp_path / "second", seed=0)
    assert not asked
    policy = load_policy(run)
    for _ in range(4):
        policy.act({"image": images()}, TOLD)
    assert sorted(asked) == sorted(TOLD)  # once when acting, where there is no data set beside


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_backbone_of_another_library_is_trained_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    if kind == "vit":
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    else:  # batch norm, with its counters
        config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1])
    config.save_pretrained(tmp_path / kind)
    vision = {"tower": f"transformers:{tmp_path / kind}", "tokens": 2}
    run = train(tmp_path, network(vision=vision))
    (tmp_path / kind / "config.json").unlink()  # what the policy needs it has noted
    policy = load_policy(run)
    policy.save_pretrained(tmp_path / "saved")
    again = load_policy(tmp_path / "saved")
    episode: Episode = episodes(1)[0]
    np.testing.assert_array_equal(
        *(p.action_values(episode.observations, TOLD[0], episode.actions) for p in (policy, again))  # type: ignore[attr-defined]
    )


def test_a_policy_of_published_weights_is_loaded_without_them(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(**sizes, image_size=32, patch_size=8)
    transformers.AutoModel.from_config(config).save_pretrained(tmp_path / "vit")
    vision = {
        "tower": f"transformers:{tmp_path / 'vit'}",
        "tokens": 2,
        "backbone": {"pretrained": True, "frozen": True},
    }
    run = train(tmp_path, network(vision=vision))
    episode: Episode = episodes(1)[0]
    before: Any = load_policy(run)
    shutil.rmtree(tmp_path / "vit")
    after: Any = load_policy(run)
    assert after.describe() == before.describe()
    np.testing.assert_array_equal(
        *(p.action_values(episode.observations, TOLD[0], episode.actions) for p in (before, after))
    )


def test_a_maxvit_is_trained_from_its_configuration(tmp_path: Path) -> None:
    sizes = {"dim": 8, "depth": [1], "dim_head": 4, "window_size": 4}
    vision = {"tower": "maxvit", "maxvit": sizes, "tokens": 2, "checkpoint_activations": True}
    policy: Any = load_policy(train(tmp_path, network(vision=vision)))
    assert policy.network.encoder.encoders[0].tower.checkpoint_activations
    assert policy.act({"image": images()}, TOLD).shape == (2,)


@pytest.mark.parametrize("algorithm", ["q-transformer", "bc"])
def test_a_run_notes_the_encoder_it_started_with_and_does_not_go_on_with_another(
    algorithm: str, tmp_path: Path
) -> None:
    text = {"encoder": write_text_encoder(tmp_path / "encoder"), "drop_probability": 0.2}
    run = train(tmp_path, network(text=text), algorithm, steps=2)
    found = get_algorithm(algorithm)
    config = load_config(found.config_class, file=run / "config.yaml")
    assert config.network.text.revision
    data = [str(tmp_path / "store")]
    found.train(config, data=data, run=run, seed=0, resume=True)  # nothing is left to do, and nothing is refused
    write_text_encoder(tmp_path / "encoder", seed=1)
    with pytest.raises(RequestError, match="the folder is not what it was"):
        found.train(config, data=data, run=run, seed=0, resume=True)
