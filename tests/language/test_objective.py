"""What the objective must not depend on, and where it must be silent."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from language.tiny import ARCHITECTURES, larger_weights, tiny
from language.worlds import TextWorld
from qseq.errors import ConfigError
from qseq.language.batch import TextBatch, TokenisedText, collate, returns_of
from qseq.language.config import LanguageModelConfig, LoraConfig, TextObjectiveConfig
from qseq.language.model import QLanguageModel
from qseq.language.objective import TextObjective, observations_of, states_of
from qseq.language.values import ReturnRange
from qseq.training.moving_average import MovingAverage

RANGE = ReturnRange(-4.0, 4.0)
TEXTS = [
    *TextWorld(turns=1).texts(),
    *TextWorld(chance=True, turns=3).texts(cut=True)[:9],
    *TextWorld(chance=True, seed=1).texts(cut=True, elsewhere=True)[1:4:2],
]
LEARNERS = {
    "max": TextObjectiveConfig(),
    "expectile": TextObjectiveConfig(bootstrap="expectile"),
    "sarsa": TextObjectiveConfig(bootstrap="sarsa", value="unbounded"),
    "Monte Carlo": TextObjectiveConfig(bootstrap="none", value="categorical"),
    "softmax": TextObjectiveConfig(conservative="softmax"),
    "everything": TextObjectiveConfig(monte_carlo_bound=True, carry="turn", conservative_weight=0.0),
    "merit": TextObjectiveConfig(cloning_temperature=2.0),
    "merit of an expectile": TextObjectiveConfig(cloning_temperature=0.5, bootstrap="expectile"),
}
OBSERVANT = TextObjectiveConfig(observation_weight=0.5)


def model_for(config: TextObjectiveConfig, architecture: str = "gpt2", **heads: Any) -> QLanguageModel:
    model = QLanguageModel.on(tiny(architecture), LanguageModelConfig(**heads), config, returns=RANGE)
    larger_weights(model)
    return model


def batch_of(texts: list[TokenisedText], padding: Any = "right") -> TextBatch:
    return collate(texts, discount=0.9, minimum_return=RANGE.low, padding=padding)


def gradients(
    model: QLanguageModel, batch: TextBatch, objective: TextObjective
) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    target = MovingAverage(model).model
    losses = objective.loss(batch, model, target)
    losses.total.backward()
    grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return float(losses.total), grads


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("name", ["max", "expectile", "observations", "merit"])
def test_padding_side_and_composition_change_nothing(name: str, architecture: str) -> None:
    config = OBSERVANT if name == "observations" else LEARNERS[name]
    objective = TextObjective(config)
    model = model_for(config, architecture)
    right, grads = gradients(model, batch_of(TEXTS), objective)
    left, left_grads = gradients(model, batch_of(TEXTS, "left"), objective)
    assert left == pytest.approx(right, abs=1e-5)
    assert max(float((grads[n] - left_grads[n]).abs().max()) for n in grads) < 1e-5
    # Alone, weighted by its share of the policy's tokens, each text says what it says in company.
    total = sum(len(text.actions) for text in TEXTS)
    alone = sum(len(t.actions) / total * gradients(model, batch_of([t]), objective)[0] for t in TEXTS)
    assert alone == pytest.approx(right, abs=1e-5)


@pytest.mark.parametrize("rows", ["linear", "tied"])
@pytest.mark.parametrize("name", LEARNERS)
def test_chunks_change_nothing(name: str, rows: str) -> None:
    model = model_for(LEARNERS[name], rows=rows, dueling=rows == "tied", twin_critics=rows == "tied")
    whole, grads = gradients(model, batch_of(TEXTS), TextObjective(LEARNERS[name]))
    for elements in (1, 40):
        chunked, chunked_grads = gradients(
            model, batch_of(TEXTS), TextObjective(LEARNERS[name], chunk_elements=elements)
        )
        assert chunked == pytest.approx(whole, rel=1e-5, abs=1e-5)
        assert grads.keys() == chunked_grads.keys()
        assert max(float((grads[n] - chunked_grads[n]).abs().max()) for n in grads) < 1e-5


def test_chunks_in_half_precision() -> None:
    config = LEARNERS["max"]
    model = model_for(config)
    found = []
    for elements in (1000000, 40):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            found.append(gradients(model, batch_of(TEXTS), TextObjective(config, chunk_elements=elements)))
    (whole, grads), (chunked, chunked_grads) = found
    assert chunked == pytest.approx(whole, rel=0.02)
    scale = max(float(grad.abs().max()) for grad in grads.values())
    assert max(float((grads[n] - chunked_grads[n]).abs().max()) for n in grads) < 0.05 * scale


@pytest.mark.parametrize("name", LEARNERS)
def test_tokens_of_others_have_no_loss(name: str) -> None:
    """The states that count are those in which the policy spoke, and each token is judged there only."""
    model, batch = model_for(LEARNERS[name]), batch_of(TEXTS)
    hidden: list[torch.Tensor] = []
    encode = model.encode

    def watched(ids: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        hidden.append(encode(ids, mask).detach().requires_grad_())
        return hidden[-1]

    model.encode = watched  # type: ignore[method-assign]
    target = MovingAverage(model_for(LEARNERS[name], average_trunk=True)).model
    TextObjective(LEARNERS[name]).loss(batch, model, target).total.backward()
    grads_BL = hidden[0].grad.abs().sum(-1)
    deciding = torch.zeros_like(grads_BL, dtype=torch.bool).flatten()
    deciding[batch.states[batch.labels >= 0]] = True
    assert torch.all(grads_BL.flatten()[~deciding] == 0.0)
    assert torch.all(grads_BL.flatten()[deciding] > 0.0)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_observations_are_the_tokens_of_others(padding: str) -> None:
    """Each but a text's first, once, and not again in a row that a text goes on in."""
    texts = [
        TextWorld(turns=2).text((2, 3, 4, 5, 6, 3, 3), terminated=True),  # the policy said 3 4, then 3 3
        replace(TextWorld(turns=1).text((2, 3, 4), terminated=False), next_ids=np.array([2, 3, 4, 6, 5])),
    ]
    batch = batch_of(texts, padding)
    places, labels = observations_of(batch)
    assert labels.tolist() == [5, 6]
    assert places.tolist() == [2, 3]  # the longest text has no padding
    model = model_for(OBSERVANT)
    logits = model.policy_logits(model.encode(batch.input_ids[:1]).flatten(0, 1))
    expected = torch.nn.functional.cross_entropy(logits[2:4], torch.tensor([5, 6]), reduction="sum") / batch.mask.sum()
    target = MovingAverage(model).model
    found = TextObjective(OBSERVANT).loss(batch, model, target)
    silent = TextObjective(replace(OBSERVANT, observation_weight=0.0)).loss(batch, model, target)
    assert float(found.terms["observation"].detach()) == pytest.approx(float(expected.detach()), abs=1e-5)
    assert float((found.total - silent.total).detach()) == pytest.approx(0.5 * float(expected.detach()), abs=1e-5)


def test_merits_by_hand() -> None:
    """A turn of two tokens and one of one; rewards 1, -2 and 2, discount 0.9 after a turn, the last one ends."""
    text = TokenisedText(
        input_ids=np.array([5, 6, 7, 8, 9]),
        actions=np.array([1, 2, 4]),
        rewards=np.array([1.0, -2.0, 2.0], dtype=np.float32),
        turn_ends=np.array([False, True, True]),
        terminated=True,
    )
    batch = batch_of([text])
    objective = TextObjective(TextObjectiveConfig(cloning_temperature=0.5))
    values_N = torch.arange(len(batch.states), dtype=torch.float32)
    first, second, third = (float(values_N[n]) for n in batch.current[0])
    advantages = torch.tensor([1.0 - 2.0 + 0.9 * third - first, -2.0 + 0.9 * third - second, 2.0 - third])
    merits_N = objective.merits(batch, values_N)
    torch.testing.assert_close(merits_N[batch.current[0]], (advantages / 0.5).exp().clamp_max(20.0))
    assert float(objective.merits(batch, values_N - 100.0)[batch.current[0, 2]]) == 20.0


def test_imitation_needs_values_to_tell_merit() -> None:
    for lacking in ({"bootstrap": "none"}, {"td_weight": 0.0}):
        with pytest.raises(ConfigError, match="cloning_temperature"):
            TextObjectiveConfig(cloning_temperature=1.0, **lacking)  # type: ignore[arg-type]


def test_sampled_pull_is_right_on_average() -> None:
    config = TextObjectiveConfig(conservative_samples=3, cloning_weight=0.0, td_weight=1.0)
    model, batch = model_for(config), batch_of(TEXTS)
    target = MovingAverage(model).model
    with torch.no_grad():
        exact = TextObjective(TextObjectiveConfig(cloning_weight=0.0)).loss(batch, model, target)
        torch.manual_seed(0)
        drawn = [TextObjective(config).loss(batch, model, target).terms["conservative"] for _ in range(600)]
    assert float(torch.stack(drawn).mean()) == pytest.approx(float(exact.terms["conservative"]), rel=0.05)


def test_the_softmax_pulls_every_critic() -> None:
    """Each critic is trained on its own prediction: of the least of them only, the other would be free to rise."""
    config = TextObjectiveConfig(conservative="softmax", td_weight=1e-9, conservative_weight=1.0, cloning_weight=0.0)
    model = model_for(config, twin_critics=True)
    _, grads = gradients(model, batch_of(TEXTS), TextObjective(config))
    norms = grads["q_head.rows.weight_CVD"].flatten(1).norm(dim=1)
    with torch.no_grad():
        assert model.q_head is not None
        model.q_head.rows.weight_CVD.copy_(model.q_head.rows.weight_CVD.flip(0))
        model.q_head.offset.copy_(model.q_head.offset.flip(0))
    _, flipped = gradients(model, batch_of(TEXTS), TextObjective(config))
    assert norms.min() > 0.0
    assert torch.allclose(flipped["q_head.rows.weight_CVD"].flip(0), grads["q_head.rows.weight_CVD"], atol=1e-7)
    # The gradient of one critic does not depend on the other.
    with torch.no_grad():
        model.q_head.rows.weight_CVD[1].zero_()
    _, alone = gradients(model, batch_of(TEXTS), TextObjective(config))
    assert torch.allclose(alone["q_head.rows.weight_CVD"][0], flipped["q_head.rows.weight_CVD"][0], atol=1e-7)


def test_a_cut_off_text_goes_on_and_an_ended_one_does_not() -> None:
    ended, cut = (
        TextWorld(turns=1).text((2, 3, 4), terminated=True),
        TextWorld(turns=1).text((2, 3, 4), terminated=False),
    )
    batch = batch_of([ended, cut])
    assert batch.discounts.tolist() == [[1.0, 0.0], [1.0, pytest.approx(0.9)]]
    values = torch.arange(len(batch.states)).float()
    targets = TextObjective(TextObjectiveConfig(discount=0.9)).targets(batch, values)
    # States: two of the first text, then three of the second, the last one after its last token.
    expected = batch.rewards + torch.tensor([[1.0, 0.0], [3.0, 0.9 * 4.0]])
    assert torch.allclose(targets, expected)


@pytest.mark.parametrize("padding", ["left", "right"])
def test_a_text_may_go_on_in_another(padding: str) -> None:
    """Its last token is followed by the end of a row of its own, which holds no token of the policy."""
    world = TextWorld(turns=1)
    cut = replace(world.text((2, 3, 4), terminated=False), next_ids=np.array([2, 3, 4, 6, 5]))
    batch = batch_of([cut, world.text((2, 4, 4), terminated=True)], padding)
    assert (len(batch), len(batch.input_ids)) == (2, 3)
    place = {"left": [2, 3, 14, 7, 8], "right": [0, 1, 14, 5, 6]}[padding]
    assert batch.states.tolist() == place
    assert batch.labels.tolist() == [3, 4, -1, 4, 4]
    assert batch.following.tolist() == [[1, 2], [4, 4]]
    assert batch.discounts[0].tolist() == [1.0, pytest.approx(0.9)]
    assert batch.input_ids.flatten()[14] == 5
    assert int(batch.attention_mask.sum()) == 3 + 3 + 5


def test_a_turn_ends_in_the_state_after_the_reply() -> None:
    text = TextWorld(turns=2).text((2, 3, 4, 5, 6, 3, 3), terminated=True)  # a reply of two tokens
    batch = batch_of([text])
    assert batch.states.tolist() == [0, 1, 4, 5]
    assert batch.following[0, 1] == 2  # position 4: all of the reply has been read
    assert batch.discounts[0].tolist() == [1.0, pytest.approx(0.9), 1.0, 0.0]


def test_discounts_and_returns_by_hand() -> None:
    world = TextWorld(turns=2)
    text = world.text((2, 3, 3, 5, 4, 4), terminated=True)
    r = text.rewards
    per_turn = returns_of(text, 0.5, "turn", -9.0)
    assert per_turn.achieved[0] == pytest.approx(r[0] + r[1] + 0.5 * (r[2] + r[3]), abs=1e-6)
    per_token = returns_of(text, 0.5, "token", -9.0)
    assert per_token.achieved[0] == pytest.approx(r[0] + r[1] / 2 + r[2] / 4 + r[3] / 8, abs=1e-6)
    cut = returns_of(world.text((2, 3, 3, 5), terminated=False), 0.5, "turn", -9.0)
    assert cut.achieved[0] == pytest.approx(r[0] + r[1], abs=1e-6)
    assert cut.bounds[0] == pytest.approx(r[0] + r[1] - 4.5, abs=1e-6)


def test_target_network_holds_no_second_trunk_where_none_is_trained() -> None:
    config = TextObjectiveConfig()
    for heads in ({}, {"lora": LoraConfig(rank=2), "average_trunk": True}, {"train": "heads", "average_trunk": True}):
        model = model_for(config, **heads)
        average = MovingAverage(model)
        own = {name for name in average.tensors() if "offset" not in name and "q_head" not in name}
        assert all("lora" in name for name in own), own
        assert not any(p.requires_grad for n, p in average.model.named_parameters() if n in average.tensors())
        assert any(p.requires_grad for p in model.parameters())
    # Sharing must not freeze what is trained.
    assert all(p.requires_grad for p in model_for(config).parameters())
    shared = model_for(config)
    MovingAverage(shared)
    assert all(p.requires_grad for p in shared.parameters())


def test_the_trunk_is_read_without_dropout() -> None:
    model = model_for(TextObjectiveConfig()).train()
    batch = batch_of(TEXTS)
    assert torch.equal(states_of(model, batch), states_of(model, batch))
