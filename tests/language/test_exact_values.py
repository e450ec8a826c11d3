"""The objective finds the exact values of small worlds of texts, by a table and by a real language model."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

from language.tiny import tiny
from language.worlds import A, B, Prefix, TableModel, TextWorld
from qseq.language.batch import collate
from qseq.language.config import LanguageModelConfig, TextObjectiveConfig
from qseq.language.model import QLanguageModel
from qseq.language.objective import TextObjective
from qseq.language.support import SupportConfig
from qseq.language.values import ReturnRange
from qseq.values import make_value_transform

OWN = SupportConfig(top_k=0, min_p=0.05)
RANGE = ReturnRange(-4.0, 4.0)


def fit(
    world: TextWorld,
    model: nn.Module,
    config: TextObjectiveConfig,
    *,
    steps: int,
    rate: float,
    every: int = 10,
    cut: bool = False,
    elsewhere: bool = False,
) -> None:
    """Full-batch steps; the target network is a copy, renewed after every so many steps."""
    batch = collate(
        world.texts(cut=cut, elsewhere=elsewhere),
        discount=config.discount,
        per=config.discount_per,
        minimum_return=RANGE.low,
        padding="right",
    )
    objective = TextObjective(config)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=rate, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, steps)
    target = copy.deepcopy(model).requires_grad_(False)
    for step in range(steps):
        if step % every == 0:
            target.load_state_dict(model.state_dict())
        losses = objective.loss(batch, model, target)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        schedule.step()


@torch.no_grad()
def learnt(model: Any, prefix: Prefix, token: int) -> float:
    hidden_LD = model.encode(torch.tensor([prefix]))[0]
    return float(model.q_values_at(hidden_LD[-1:], torch.tensor([[token]])))


def errors(world: TextWorld, model: Any) -> dict[tuple[Prefix, int], float]:
    return {
        (prefix, token): learnt(model, prefix, token) - world.q(prefix, token)
        for prefix in world.states()
        for token in (A, B)
    }


CUT = {"cut": True}
CASES: dict[str, tuple[TextWorld, dict[str, Any], dict[str, bool]]] = {
    "chance": (TextWorld(chance=True), {}, {}),
    "cut off, chance": (TextWorld(chance=True, seed=2), {}, CUT),
    "going on in another text": (TextWorld(chance=True, seed=1), {}, {"cut": True, "elsewhere": True}),
    "discount per token": (TextWorld(per="token", seed=3), {"discount_per": "token"}, CUT),
    "three turns": (TextWorld(turns=3, seed=4), {}, {}),
    "bounded": (TextWorld(seed=5), {"value": "bounded"}, CUT),
    "HL-Gauss": (TextWorld(seed=6), {"value": "categorical"}, {}),
    "lower bound": (TextWorld(seed=7), {"monte_carlo_bound": True}, CUT),
    "carried along": (TextWorld(seed=8), {"carry": "text"}, CUT),
    "carried within a turn": (TextWorld(seed=9), {"carry": "turn"}, CUT),
}


@pytest.mark.parametrize("name", CASES)
def test_every_prefix_has_its_exact_value(name: str) -> None:
    world, changes, texts = CASES[name]
    config = replace(
        TextObjectiveConfig(
            discount=world.discount, support=OWN, conservative_weight=0.0, value="unbounded", value_atoms=51
        ),
        **changes,
    )
    model = TableModel(world.states(), returns=RANGE, values=make_value_transform(**config.value_arguments()))
    # A histogram's logits have further to go.
    fit(world, model, config, **texts, steps=400, rate=0.5 if config.value == "categorical" else 0.1, every=5)
    assert max(map(abs, errors(world, model).values())) < 0.02


def test_imitation_by_merit_prefers_by_the_exact_advantage() -> None:
    """Of tokens said equally often, one is preferred to the other by `exp` of what it is worth more (AWR)."""
    world, temperature = TextWorld(seed=12), 1.0
    config = TextObjectiveConfig(
        discount=world.discount,
        support=OWN,
        conservative_weight=0.0,
        value="unbounded",
        cloning_temperature=temperature,
    )
    model = TableModel(world.states(), returns=RANGE, values=make_value_transform("unbounded"))
    fit(world, model, config, steps=400, rate=0.1, every=5)
    for prefix in world.states():
        if world.decisions(prefix) % 2 == 0:
            continue  # of a turn's first token the merit is that of what was said after it, too
        logits_V = model.policy[model.rows[prefix]]
        difference = (world.q(prefix, A) - world.q(prefix, B)) / temperature
        assert float((logits_V[A] - logits_V[B]).detach()) == pytest.approx(difference, abs=0.05)


@pytest.mark.slow
def test_a_language_model_finds_them() -> None:
    """GPT-2's architecture; a network needs more steps than a table to come as near."""
    world = TextWorld(chance=True, seed=10, memory=2)
    config = TextObjectiveConfig(discount=world.discount, support=OWN, conservative_weight=0.0, cloning_weight=0.1)
    language_model = tiny("gpt2", width=64, initializer_range=0.125)
    heads = LanguageModelConfig(average_trunk=True)
    model = QLanguageModel.on(language_model, heads, config, returns=ReturnRange(-2.5, 2.5))
    fit(world, model, config, cut=True, steps=600, rate=4e-3)
    assert max(map(abs, errors(world, model).values())) < 0.02


def test_without_the_regulariser_unseen_tokens_are_overestimated() -> None:
    """The maximum over the whole vocabulary believes in tokens that no text has; the pull to the floor ends that."""
    world = TextWorld(seed=11)
    everything = SupportConfig(top_k=0, min_p=0.0)
    config = TextObjectiveConfig(
        discount=world.discount, support=everything, conservative_weight=0.0, initial_value=0.9
    )
    first = (world.states()[0], A)
    found = {}
    for weight in (0.0, 1.0):
        model = TableModel(world.states(), returns=RANGE, values=make_value_transform("bounded", loss="bce"))
        torch.nn.init.constant_(model.q, 2.0)  # optimistic, as an error of a network may be
        fit(world, model, replace(config, conservative_weight=weight), steps=300, rate=0.1)
        found[weight] = learnt(model, *first) - world.q(*first)
    assert found[0.0] > 1.0
    assert found[1.0] < 0.1
