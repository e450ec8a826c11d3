"""Every option of the Q-Transformer, and every pair of them, trains, saves, loads and decodes as it trained.

To add an option add a row to `OPTIONS` (and to `STORES` if it needs other data); pairs follow by themselves. Two rows
that set one key to different values are no pair. Pairs that must be refused go into `REFUSED`, with what the error
says.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from qseq.configuration import from_dict
from qseq.episodes import Episode, EpisodeStore, EpisodeView, StoreWriter
from qseq.errors import ConfigError
from qseq.robot import QRoboticTransformer, QTransformerConfig, QTransformerPolicy
from qseq.robot.algorithm import make_trainer
from qseq.robot.decoding import choose_tokens
from qseq.training import Trainer, save_tensors, tensors_of

BASE: dict[str, Any] = {
    "actions.num_bins": 4,
    "network.dim": 16,
    "network.heads": 2,
    "network.dim_head": 8,
    "network.decoder_depth": 1,
    "network.decoder_heads": 2,
    "network.decoder_dim_head": 8,
    "network.dropout": 0.0,
    "network.text.vocabulary": 32,
    "objective.bootstrap": "max",
    "objective.bootstrap_steps": [1],
    "training.batch_size": 16,
    "training.trackers": [],
}

BOX = {"type": "box", "low": [-1.0] * 3, "high": [1.0] * 3, "shape": [3], "dtype": "float32"}
DISCRETE = {"type": "discrete", "n": 5, "start": 0}
STORES: dict[str, tuple[dict[str, Any], dict[str, tuple[int, ...]]]] = {
    "box": (BOX, {"state": (2,)}),
    "discrete": (DISCRETE, {"state": (2,)}),
    "camera": (BOX, {"camera": (3, 24, 24), "state": (2,)}),
}
"""Name -> action space, and the shape of each observation field; three dimensions make a camera."""

OPTIONS: dict[str, dict[str, Any]] = {
    "tied": {"network.tied": True},
    "dueling": {"network.head.dueling": True},
    "dual critics": {"network.head.dual_critics": True},
    "random order": {"network.head.dimension_order": "random"},
    "learned order": {"network.head.dimension_order": "learned"},
    "one token": {"store": "discrete"},
    "pooled": {"store": "discrete", "network.head.pooled": True},
    "camera": {"store": "camera", "network.vision.dim": 8, "network.vision.tokens": 2},
    "maxvit": {
        "store": "camera",
        "network.vision.tower": "maxvit",
        "network.vision.maxvit.dim": 8,
        "network.vision.maxvit.depth": [1],
        "network.vision.maxvit.dim_head": 4,
        "network.vision.maxvit.window_size": 2,
        "network.vision.maxvit.dropout": 0.0,
        "network.vision.tokens": 2,
    },
    "all positions": {"store": "camera", "network.vision.dim": 8, "network.vision.tokens": 0},
    "looks by state": {
        "store": "camera",
        "network.vision.dim": 8,
        "network.vision.tokens": 2,
        "network.vision.condition_on_state": True,
    },
    "gated patches": {
        "store": "camera",
        "network.vision.dim": 8,
        "network.vision.tokens": 2,
        "network.vision.depth": [1],
        "network.vision.patch": 8,
        "network.vision.gated": 8,
        "network.vision.learn_places": True,
    },
    "crop": {"store": "camera", "data.random_crop": 16, "network.vision.dim": 8, "network.vision.tokens": 2},
    "shift": {"store": "camera", "data.random_shift": 2, "network.vision.dim": 8, "network.vision.tokens": 2},
    "words attended to": {"network.text.cross_attention": True},
    "film": {"network.text.film": True},
    "gated numbers": {"network.text.gate_numbers": True},
    "text of size": {"network.text.norm": True},
    "dropped instructions": {"network.text.drop_probability": 0.4},
    "no instructions": {"network.text.encoder": "none"},
    "history": {"data.history": 2},
    "first frame": {"data.first_frame": True},
    "past actions": {"data.past_actions": 2},
    "categorical": {"objective.value": "categorical", "objective.value_atoms": 11},
    "unbounded": {"objective.value": "unbounded"},
    "expectile": {"objective.bootstrap": "expectile", "objective.value_folds": 2},
    "prior": {"objective.bootstrap": "expectile", "objective.prior_weight": 0.5, "decoding.prior_weight": 0.1},
    "matching": {"objective.matching_weight": 1.0, "objective.alike_share": 0.5},
    "mismatched": {"objective.mismatched_share": 0.5},
    "double q": {"objective.double_q": True},
    "consistency": {"objective.consistency_weight": 0.5},
    "regenerative": {"objective.regenerative_weight": 1e-3},
    "n steps": {"objective.bootstrap_steps": [3]},
    "chunk": {"actions.chunk": 2, "objective.bootstrap_steps": [2]},
    "epsilon": {"decoding.epsilon": 0.5},
    "gumbel": {"decoding.temperature": 0.2, "decoding.anneal_decisions": 5},
    "relative": {"decoding.relative": True},
    "beam": {"decoding.beam_width": 3},
}
"""Name -> dotted keys. "store" is no key of the configuration: it chooses the data."""

REFUSED: dict[frozenset[str], str] = {
    frozenset({"tied", "categorical"}): "network.tied",
    frozenset({"tied", "pooled"}): "network.tied",
    frozenset({"pooled", "random order"}): "network.head.dimension_order",
    frozenset({"pooled", "learned order"}): "network.head.dimension_order",
    frozenset({"pooled", "chunk"}): "network.head.pooled",
    frozenset({"learned order", "chunk"}): "network.head.dimension_order",
    frozenset({"expectile", "double q"}): "objective.double_q",
    frozenset({"expectile", "consistency"}): "objective.consistency_weight",
    frozenset({"prior", "double q"}): "objective.double_q",
    frozenset({"prior", "consistency"}): "objective.consistency_weight",
    frozenset({"prior", "beam"}): "decoding.prior_weight",
    frozenset({"double q", "consistency"}): "objective.consistency_weight",
    frozenset({"crop", "shift"}): "data.random_crop, data.random_shift",
    frozenset({"no instructions", "words attended to"}): "network.text",
    frozenset({"no instructions", "gated numbers"}): "network.text",
    frozenset({"no instructions", "film"}): "network.text",
    frozenset({"no instructions", "dropped instructions"}): "network.text",
    frozenset({"no instructions", "mismatched"}): "objective.mismatched_share",
    frozenset({"relative", "unbounded"}): "decoding.relative",
    frozenset({"epsilon", "gumbel"}): "decoding.epsilon and decoding.temperature",
    frozenset({"epsilon", "beam"}): "decoding.epsilon and decoding.beam_width",
    frozenset({"gumbel", "beam"}): "decoding.temperature and decoding.beam_width",
}

WITHOUT_GRADIENT = {
    "one token": r"\.(bin_embedding_AKD|seen_AD)$",  # there is no token before it
    # A tower's own: it is always given an instruction, be it the empty one.
    **dict.fromkeys(
        ("camera", "all positions", "looks by state", "gated patches", "maxvit", "crop", "shift"),
        r"\.null_condition\.null_C$",
    ),
}
"""Option -> pattern of the parameters that nothing trains; all others must get a gradient."""

STEPS = 8


def merged(names: tuple[str, ...]) -> dict[str, Any] | None:
    """The keys of these options together; None where they contradict each other."""
    keys: dict[str, Any] = {}
    for name in names:
        for key, value in OPTIONS[name].items():
            if keys.setdefault(key, value) != value:
                return None
    return keys


PAIRS = [pair for pair in combinations(OPTIONS, 2) if merged(pair) is not None]
TRAINABLE = [*((name,) for name in OPTIONS), *(pair for pair in PAIRS if frozenset(pair) not in REFUSED)]


def nested(keys: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in keys.items():
        *path, last = key.split(".")
        branch = tree
        for part in path:
            branch = branch.setdefault(part, {})
        branch[last] = value
    return tree


@pytest.fixture(scope="module")
def views(tmp_path_factory: pytest.TempPathFactory) -> dict[str, EpisodeView]:
    folder = tmp_path_factory.mktemp("stores")
    for name, (space, shapes) in STORES.items():
        random = np.random.default_rng(0)
        with StoreWriter(folder / name, action_space=space) as writer:
            for number in range(24):
                steps = 1 + number % 4
                success = number % 3 > 0
                writer.add(
                    Episode(
                        observations=random_frames(random, steps + 1, shapes),
                        actions=random.integers(5, size=steps)
                        if space is DISCRETE
                        else random.uniform(-1, 1, (steps, 3)).astype(np.float32),
                        rewards=np.array([0.0] * (steps - 1) + [float(success)], np.float32),
                        terminated=success,
                        truncated=not success,
                        success=success,
                        instruction=("", "push the puck", "open the drawer")[number % 3],
                    )
                )
    return {name: EpisodeView(EpisodeStore.open(folder / name)) for name in STORES}


def random_frames(
    random: np.random.Generator, frames: int, shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray]:
    return {
        name: random.integers(256, size=(frames, *shape)).astype(np.uint8)
        if len(shape) == 3
        else random.normal(size=(frames, *shape)).astype(np.float32)
        for name, shape in shapes.items()
    }


def trainer_of(names: tuple[str, ...], views: Mapping[str, EpisodeView], run: Path) -> Trainer:
    keys = BASE | (merged(names) or {})
    view = views[keys.pop("store", "box")]
    return make_trainer(from_dict(QTransformerConfig, nested(keys)), view, run=run, seed=0)


@pytest.mark.parametrize("names", TRAINABLE, ids=" + ".join)
def test_it_learns_saves_loads_and_decodes_as_it_trained(
    names: tuple[str, ...], views: dict[str, EpisodeView], tmp_path: Path
) -> None:
    trainer = trainer_of(names, views, tmp_path / "run")
    model = trainer.model
    assert isinstance(model, QRoboticTransformer)
    target = copy.deepcopy(model).requires_grad_(False).eval()
    optimiser = torch.optim.Adam(model.parameters(), lr=5e-3)
    with_gradient: set[str] = set()
    losses = []
    for _ in range(STEPS):
        torch.manual_seed(0)  # the same orders each time: the loss has to fall
        total = trainer.objective.loss(trainer.batches.batch_at(0), model, target).total
        optimiser.zero_grad()
        total.backward()
        with_gradient |= {n for n, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        optimiser.step()
        losses.append(total.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    allowed = [pattern for option, pattern in WITHOUT_GRADIENT.items() if option in names]
    without = [name for name, _ in model.named_parameters() if name not in with_gradient]
    assert [name for name in without if not any(re.search(pattern, name) for pattern in allowed)] == []

    folder = tmp_path / "policy"
    folder.mkdir()
    assert trainer.save_model is not None
    trainer.save_model(model, folder)
    save_tensors(tensors_of(model), folder / "model.safetensors")
    loaded = QTransformerPolicy.from_pretrained(folder, seed=3)
    kept = QTransformerPolicy(model, loaded.spec, seed=3)
    states = random_frames(np.random.default_rng(1), 6, loaded.spec.fields)
    told = "push the puck" if kept.takes_instructions else None
    actions = kept.act(states, told)
    np.testing.assert_array_equal(loaded.act(states, told), actions)
    np.testing.assert_array_equal(
        loaded.action_values(states, told, actions), kept.action_values(states, told, actions)
    )
    assert_cached_decoding_is_what_was_trained(model, kept)


def assert_cached_decoding_is_what_was_trained(model: QRoboticTransformer, policy: QTransformerPolicy) -> None:
    with torch.no_grad():
        history = model.encoder.history
        frames = random_frames(np.random.default_rng(2), 6 * history, model.field_shapes)
        observation = {name: torch.from_numpy(x).unflatten(0, (6, history)) for name, x in frames.items()}
        null = model.encoder.instruction.null(6)
        context = model.encode(observation, model.instruct(["open it"] * 6) if policy.takes_instructions else null)
        found = []
        for use_cache in (True, False):
            select = policy.decoding.select(generator=torch.Generator().manual_seed(0))
            width = policy.decoding.beam_width
            found.append(choose_tokens(model, context, select, beam_width=width, use_cache=use_cache))
        (tokens, values), (tokens_uncached, values_uncached) = found
        assert torch.equal(tokens, tokens_uncached)
        torch.testing.assert_close(values, values_uncached, atol=1e-5, rtol=0)
        if model.config.head.dimension_order != "learned":  # whose values are those in the order it chose
            trained = model.values.values(model.decode(context, tokens[:, :-1]))
            torch.testing.assert_close(values, trained, atol=1e-5, rtol=0)


@pytest.mark.parametrize("names", [tuple(sorted(names)) for names in REFUSED], ids=" + ".join)
def test_what_does_not_go_together_is_refused_in_one_line(
    names: tuple[str, ...], views: dict[str, EpisodeView], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(REFUSED[frozenset(names)])}: found .* expected") as caught:
        trainer_of(names, views, tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_every_refused_pair_names_options() -> None:
    assert all(names <= OPTIONS.keys() and merged(tuple(names)) is not None for names in REFUSED)
