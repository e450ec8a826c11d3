"""Frozen text encoders: what they give, how often they are asked, and what is kept of it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from qseq.errors import ConfigError, DataError, RequestError
from qseq.networks import frozen_text
from qseq.networks.frozen_text import TextInputs, frozen_encoder, resolve_text
from qseq.networks.text import InstructionEncoder, TextConfig
from tests.networks.tiny_text import WIDTH, write_text_encoder

TEXTS = ["push the red puck", "pull", "", "push the red puck"]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every text that an encoder was run on."""
    found: list[str] = []
    real = frozen_text.FrozenTextEncoder.embed

    def embed(self: Any, texts: Any) -> Any:
        found.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(frozen_text.FrozenTextEncoder, "embed", embed)
    frozen_encoder.cache_clear()
    return found


@pytest.mark.parametrize("kind", ["bert", "t5", "clip"])
def test_words_are_the_last_hidden_state_and_their_mean_is_over_the_mask(kind: str, tmp_path: Path) -> None:
    config = resolve_text(TextConfig(encoder=write_text_encoder(tmp_path, kind)))
    assert config.embed_dim == WIDTH
    encoder = frozen_encoder(str(tmp_path), config.revision)
    together = encoder.embed(["push the red puck", "pull"])
    alone = encoder.embed(["pull"])[0]
    assert [len(words) for words in together] == [5, 2]  # with the token at the end
    torch.testing.assert_close(together[1], alone, atol=1e-5, rtol=1e-4)  # padding changes nothing
    pieces = encoder.tokenizer(["push the red puck"], return_tensors="pt")
    hidden = encoder.model(input_ids=pieces["input_ids"]).last_hidden_state[0]
    torch.testing.assert_close(together[0], hidden, atol=1e-5, rtol=1e-4)
    inputs = TextInputs(config)(TEXTS)
    assert inputs.shape == (4, 1, WIDTH)
    torch.testing.assert_close(inputs[0, 0], hidden.mean(0), atol=1e-5, rtol=1e-4)
    assert (inputs[2] == 0).all()


def test_each_distinct_text_is_embedded_once_in_memory_and_on_disk(tmp_path: Path, asked: list[str]) -> None:
    name = write_text_encoder(tmp_path / "encoder")
    config = resolve_text(TextConfig(encoder=name, cross_attention=True))
    first = TextInputs(config, tmp_path / "cache")
    inputs = first(TEXTS)
    for _ in range(3):
        assert torch.equal(first(TEXTS), inputs)
    assert asked == ["push the red puck", "pull"]
    assert torch.equal(TextInputs(config, tmp_path / "cache")(TEXTS), inputs)
    assert len(asked) == 2
    again = TextInputs(config, tmp_path / "cache")(["push", *TEXTS])
    assert asked == ["push the red puck", "pull", "push"]
    assert torch.equal(again[1:], inputs)
    # An encoder with other weights has a cache of its own.
    other = resolve_text(TextConfig(encoder=write_text_encoder(tmp_path / "other", seed=1), cross_attention=True))
    assert not torch.allclose(TextInputs(other, tmp_path / "cache")(TEXTS), inputs)
    assert len(asked) == 5
    assert not list((tmp_path / "cache").rglob("*.tmp"))


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only for root")
def test_data_that_cannot_be_written_are_cached_in_memory(tmp_path: Path, asked: list[str]) -> None:
    config = resolve_text(TextConfig(encoder=write_text_encoder(tmp_path / "encoder")))
    (tmp_path / "data").mkdir(mode=0o500)
    inputs = TextInputs(config, tmp_path / "data" / "cache")
    inputs(TEXTS)
    inputs(TEXTS)
    assert len(asked) == 2


def test_a_cache_that_cannot_be_made_falls_back_to_memory(tmp_path: Path, asked: list[str]) -> None:
    config = resolve_text(TextConfig(encoder=write_text_encoder(tmp_path / "encoder")))
    (tmp_path / "data").write_text("a file where the folder should be")
    inputs = TextInputs(config, tmp_path / "data")
    assert torch.equal(inputs(TEXTS), inputs(TEXTS))
    assert len(asked) == 2


def test_damaged_embeddings_are_named(tmp_path: Path) -> None:
    config = resolve_text(TextConfig(encoder=write_text_encoder(tmp_path / "encoder")))
    TextInputs(config, tmp_path / "cache")(["pull"])
    (file,) = (tmp_path / "cache").rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-3])
    with pytest.raises(DataError, match=rf"{file.name}: cannot be read as embeddings"):
        TextInputs(config, tmp_path / "cache")(["pull"])


def test_wrong_requests_are_one_line(tmp_path: Path) -> None:
    config = resolve_text(TextConfig(encoder=write_text_encoder(tmp_path / "encoder", longest=6)))
    with pytest.raises(
        RequestError, match=r"instruction 'push push.*': found 10 tokens, expected at most the 6"
    ) as error:
        TextInputs(config)([" ".join(["push"] * 9)])
    assert "\n" not in str(error.value)
    with pytest.raises(RequestError, match=r"network.text.encoder: '.*nowhere' is neither a folder nor a repository"):
        resolve_text(TextConfig(encoder=f"hf:{tmp_path / 'nowhere'}"))
    write_text_encoder(tmp_path / "encoder", seed=5)
    with pytest.raises(RequestError, match=r"network.text.revision\): the folder is not what it was"):
        resolve_text(config)
    with pytest.raises(ConfigError, match=r"network.text.encoder: found 't5', expected words, hf:NAME_OR_PATH or none"):
        TextConfig(encoder="t5")
    with pytest.raises(ConfigError, match=r"network.text.encoder: found 'hf:', expected words"):
        TextConfig(encoder="hf:")
    with pytest.raises(ConfigError, match="no instruction to condition on"):
        TextConfig(encoder="none", film=True)


def test_the_learnt_part_projects_and_gives_the_null_vector_for_nothing(tmp_path: Path) -> None:
    config = resolve_text(TextConfig(encoder=write_text_encoder(tmp_path / "encoder"), cross_attention=True))
    torch.manual_seed(0)
    encoder = InstructionEncoder(8, config)
    instruction = encoder(TextInputs(config)(TEXTS))
    assert instruction.summary_BD.shape == (4, 8)
    assert torch.equal(instruction.summary_BD[0], instruction.summary_BD[3])
    assert torch.equal(instruction.summary_BD[2], encoder.null_D)
    assert instruction.present_BW is not None
    assert instruction.present_BW.sum(1).tolist() == [5, 2, 0, 5]
