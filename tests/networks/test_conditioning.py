"""Instructions in the network: cross-attention, FiLM, dropping, null conditions, guidance."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from qseq.errors import ConfigError
from qseq.networks.action_network import ActionNetwork, NetworkConfig
from qseq.networks.guidance import GuidedDecoder, guided_context
from qseq.networks.observation import FieldLayout, VectorEncoder
from qseq.networks.text import Instruction, TextConfig
from qseq.networks.vision import VisionConfig

B = 6
TEXTS = ["push the puck", "open the drawer slowly and carefully", "", "push", "wave", "turn left"]


def make_network(**text: Any) -> ActionNetwork:
    torch.manual_seed(0)
    config = NetworkConfig(
        dim=16, heads=2, dim_head=8, decoder_heads=2, decoder_dim_head=8, dropout=0.0, text=TextConfig(**text)
    )
    return ActionNetwork(config, {"state": FieldLayout(shape=(3,))}, num_tokens=3, num_bins=5)


def state() -> dict[str, torch.Tensor]:
    return {"state": torch.randn(B, 1, 3, generator=torch.Generator().manual_seed(1))}


@pytest.mark.parametrize("text", [{"cross_attention": True}, {"film": True}, {"cross_attention": True, "film": True}])
def test_more_conditioning_changes_what_is_seen_and_ignores_padding(text: dict[str, Any]) -> None:
    network = make_network(**text).eval()
    if "film" in text:
        for conditioning in network.encoder.conditioning:
            torch.nn.init.normal_(conditioning.film.to_scale_shift.weight)
    plain = make_network().eval()
    missing = network.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing
    told = network.instruct(TEXTS)
    assert not torch.allclose(network.encode(state(), told), plain.encode(state(), plain.instruct(TEXTS)))
    alone = Instruction.concatenate([network.instruct([text]) for text in TEXTS])
    torch.testing.assert_close(network.encode(state(), told), network.encode(state(), alone))


def test_words_are_read_one_by_one_with_cross_attention() -> None:
    """Two instructions with the same summary but other words."""
    network = make_network(cross_attention=True).eval()
    told = network.instruct(TEXTS[:1] * B)
    assert told.words_BWD is not None
    other = Instruction(told.summary_BD, told.words_BWD.flip(0) * -1, told.present_BW)
    assert not torch.allclose(network.encode(state(), told), network.encode(state(), other))


def test_rows_of_a_data_set_are_the_same_as_texts() -> None:
    network = make_network(cross_attention=True).eval()
    inputs = network.text_inputs(TEXTS)
    rows = torch.tensor([5, 0, 0, 2])
    for wanted in (rows, rows.repeat(4)):  # fewer rows than instructions, and more
        found = network.embed_instructions(inputs, wanted)
        expected = network.embed_instructions(inputs)[wanted]
        torch.testing.assert_close(found.summary_BD, expected.summary_BD)
        torch.testing.assert_close(found.tokens()[0], expected.tokens()[0])
        assert torch.equal(found.tokens()[1], expected.tokens()[1])


@pytest.mark.parametrize("cross_attention", [False, True])
def test_embeddings_stand_for_the_texts_they_were_made_of(cross_attention: bool) -> None:
    network = make_network(cross_attention=cross_attention).eval()
    embeds = network.embed_texts(TEXTS)
    assert embeds.ndim == (3 if cross_attention else 2)
    given = network.embed_instructions(embeds if cross_attention else embeds[:, None])
    told = network.instruct(TEXTS)
    torch.testing.assert_close(given.summary_BD, told.summary_BD)
    torch.testing.assert_close(network.encode(state(), given), network.encode(state(), told))
    assert (embeds[2] == 0).all()


def test_the_condition_is_dropped_in_training_only_for_each_sample_by_itself() -> None:
    network = make_network(drop_probability=0.3, cross_attention=True)
    inputs, rows = network.text_inputs(TEXTS[:1]), torch.zeros(4000, dtype=torch.long)
    null_D = network.encoder.instruction.null_D
    instruction = network.train().embed_instructions(inputs, rows)
    dropped = (instruction.summary_BD == null_D).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.3, abs=0.03)
    assert instruction.present_BW is not None
    assert torch.equal(instruction.present_BW.any(1), ~dropped)  # no word of a dropped instruction is seen
    assert not (network.eval().embed_instructions(inputs, rows).summary_BD == null_D).all(1).any()


def test_dropped_samples_teach_the_null_vector_and_kept_ones_do_not() -> None:
    network = make_network(drop_probability=0.5).train()
    null_D = network.encoder.instruction.null_D
    instruction = network.embed_instructions(network.text_inputs(TEXTS[:1]), torch.zeros(40, dtype=torch.long))
    dropped = (instruction.summary_BD == null_D).all(1)
    assert 0 < dropped.sum() < 40
    instruction.summary_BD[dropped].sum().backward(retain_graph=True)
    torch.testing.assert_close(null_D.grad, torch.full_like(null_D, float(dropped.sum())))
    null_D.grad = None
    instruction.summary_BD[~dropped].sum().backward()
    assert null_D.grad is not None
    assert (null_D.grad == 0).all()


def test_without_instructions_there_is_one_learnt_vector_and_nothing_else() -> None:
    network = make_network(encoder="none")
    names = {name for name, _ in network.encoder.instruction.named_parameters()}
    assert names == {"null_D"}
    instruction = network.embed_instructions(network.text_inputs(["a", "b"]), torch.tensor([0, 1, 1]))
    assert torch.equal(instruction.summary_BD, network.encoder.instruction.null_D.expand(3, -1))


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guidance_is_linear_in_the_logits_cached_or_not(scale: float) -> None:
    network = make_network(drop_probability=0.1).eval()
    told, prefix = network.instruct(TEXTS), torch.randint(0, 5, (B, 2))
    conditional = network.decode(network.encode(state(), told), prefix)
    null = network.decode(network.encode(state(), network.encoder.instruction.null(B)), prefix)
    decoder, context = GuidedDecoder(network.decoder, scale), guided_context(network, state(), told)
    expected = null + scale * (conditional - null)
    torch.testing.assert_close(decoder(context, prefix), expected)
    cache = decoder.new_cache()
    steps = [decoder(context, prefix[:, :length], cache) for length in range(3)]
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "text", [{"cross_attention": True, "film": True, "drop_probability": 0.2}, {"encoder": "none"}]
)
def test_every_parameter_is_trained(text: dict[str, Any]) -> None:
    network = make_network(**text).train()
    instruction = network.embed_instructions(network.text_inputs(TEXTS), torch.arange(B))
    network.decode(network.encode(state(), instruction), torch.zeros(B, 2, dtype=torch.long)).sum().backward()
    assert not [name for name, parameter in network.named_parameters() if parameter.grad is None]


def looking_network(*, condition_on_state: bool) -> ActionNetwork:
    torch.manual_seed(0)
    vision = VisionConfig(dim=8, depth=(1,), tokens=2, condition_on_state=condition_on_state)
    config = NetworkConfig(dim=16, heads=2, dim_head=8, decoder_heads=2, decoder_dim_head=8, dropout=0.0, vision=vision)
    fields = {"camera": FieldLayout(shape=(3, 16, 16)), "state": FieldLayout(shape=(3,))}
    network = ActionNetwork(config, fields, num_tokens=3, num_bins=5, history=2).eval()
    for name, parameter in network.named_parameters():
        if "film" in name or "mix" in name:  # which start as no change at all
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def test_a_camera_looks_by_the_state_of_its_own_frame_if_asked_to() -> None:
    pictures = torch.rand(B, 2, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    states = torch.randn(B, 2, 3, generator=torch.Generator().manual_seed(3))
    other = states.clone()
    other[:, 1] += 1.0
    for asked in (True, False):
        network = looking_network(condition_on_state=asked)
        told = network.instruct(TEXTS)
        with torch.no_grad():
            seen, seen_other = (
                network.see({"camera": pictures, "state": each}, told)["camera"] for each in (states, other)
            )
            places = network.encoder.places({"camera": pictures, "state": states}, told)["camera"]
            places_other = network.encoder.places({"camera": pictures, "state": other}, told)["camera"]
        torch.testing.assert_close(seen[:, 0], seen_other[:, 0])
        assert torch.allclose(seen[:, 1], seen_other[:, 1]) is not asked
        assert torch.allclose(places[:, 1], places_other[:, 1]) is not asked


def test_looking_by_a_state_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^network\.vision\.condition_on_state: found true, expected it"):
        ActionNetwork(
            NetworkConfig(vision=VisionConfig(condition_on_state=True)),
            {"camera": FieldLayout(shape=(3, 16, 16))},
            num_tokens=1,
            num_bins=2,
        )


def test_gated_numbers_mean_different_things_for_different_instructions() -> None:
    torch.manual_seed(0)
    frames_BF, instruction = torch.randn(1, 2, 3).expand(2, -1, -1), Instruction(torch.randn(2, 8))
    layout = FieldLayout(shape=(3,))
    plain, gated = VectorEncoder(layout, 8), VectorEncoder(layout, 8, gated=True)
    one, other = plain(frames_BF, instruction)
    assert torch.equal(one, other)
    one, other = gated(frames_BF, instruction)
    assert one.shape == (2, 1, 8)
    assert (one - other).abs().mean() > 0.02
