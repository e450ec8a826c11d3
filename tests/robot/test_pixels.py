"""Pictures and instructions: which side holds the colour that is named?"""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from qseq import Episode, load_policy
from qseq.configuration import from_dict
from qseq.errors import RequestError
from qseq.policies.windows import decision_tokens_of
from qseq.registry import get_algorithm
from qseq.reporting import write_report
from qseq.robot.algorithm import make_trainer
from tests.robot.bandit import write_view

SIDES = {"type": "discrete", "n": 2, "start": 0}
COLOURS = ("red", "green")
TINY = {
    "network": {
        "dim": 32,
        "heads": 2,
        "dim_head": 16,
        "decoder_heads": 2,
        "decoder_dim_head": 16,
        "decoder_depth": 1,
        "dropout": 0.0,
        "vision": {"dim": 8, "depth": [1], "tokens": 2},
    },
    "objective": {"bootstrap_steps": [1]},
    "training": {"steps": 250, "batch_size": 64, "learning_rate": 2e-3, "warmup_steps": 50, "trackers": []},
}


def picture(red_left: bool, random: np.random.Generator) -> np.ndarray:
    """uint8 [3, 16, 16]: one half red, the other green, with noise."""
    image = random.integers(0, 60, (3, 16, 16))
    red, green = (slice(0, 8), slice(8, 16)) if red_left else (slice(8, 16), slice(0, 8))
    image[0, :, red] += 180
    image[1, :, green] += 180
    return image.astype(np.uint8)


def episodes(count: int) -> list[Episode]:
    """Random choices; reward 1 for the side of the colour that the instruction names."""
    random = np.random.default_rng(0)
    found = []
    for _ in range(count):
        red_left, named, side = (int(random.integers(2)) for _ in range(3))
        right = side == int(bool(red_left) == (named == 1))
        frame = picture(bool(red_left), random)
        found.append(
            Episode(
                observations={"image": np.stack([frame, frame])},
                actions=np.array([side]),
                rewards=np.array([float(right)], np.float32),
                terminated=True,
                truncated=False,
                success=right,
                instruction=f"the {COLOURS[named]} side",
            )
        )
    return found


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pixels")
    write_view(folder / "store", episodes(1500), SIDES)
    algorithm = get_algorithm("q-transformer")
    config = from_dict(algorithm.config_class, TINY)
    algorithm.train(config, data=[str(folder / "store")], run=folder / "run", seed=0)
    return folder / "run"


def score(run: Path, *, shuffled: bool = False, blank: bool = False) -> float:
    random = np.random.default_rng(7)
    red_left, named = random.integers(0, 2, 200).astype(bool), random.integers(0, 2, 200)
    images = np.stack([picture(left, random) for left in red_left])
    told = random.permutation(named) if shuffled else named
    sides = load_policy(run).act({"image": images * (not blank)}, [f"the {COLOURS[index]} side" for index in told])
    return float((sides == (red_left == (named == 1))).mean())


def test_picture_and_instruction_are_both_needed(run: Path) -> None:
    assert score(run) > 0.95
    assert score(run, shuffled=True) < 0.65
    assert score(run, blank=True) < 0.65


def test_the_report_shows_where_it_looks(run: Path, tmp_path: Path) -> None:
    policy = load_policy(run)
    episode = episodes(3)[2]
    attention = policy.attention(episode.observations, episode.instruction, episode.actions)["image"]
    assert attention.shape == (1, 4, 4)
    assert (attention >= 0).all()
    np.testing.assert_allclose(attention.sum((1, 2)), 1.0, rtol=1e-5)
    write_report([run], tmp_path / "report.html")
    assert "where it looks" in (tmp_path / "report.html").read_text()


def test_pictures_the_tower_cannot_take_are_refused_by_name(tmp_path: Path) -> None:
    episode = episodes(1)[0]
    last = {"image": np.moveaxis(episode.observations["image"], 1, -1)}
    write_view(tmp_path / "store", [Episode(**{**vars(episode), "observations": last})], SIDES)
    algorithm = get_algorithm("q-transformer")
    with pytest.raises(RequestError, match=r"'image' has shape \[16, 16, 3\].*\[channels, height, width\].*width is 3"):
        algorithm.train(
            from_dict(algorithm.config_class, TINY), data=[str(tmp_path / "store")], run=tmp_path / "run", seed=0
        )


def test_every_frame_is_encoded_once(tmp_path: Path) -> None:
    """One pass of the online tower over the observation, one of the target's over the next, whoever reads them."""
    view = write_view(tmp_path / "store", episodes(20), SIDES)
    config = from_dict(get_algorithm("q-transformer").config_class, TINY)
    trainer = make_trainer(config, view, run=tmp_path / "run", seed=0)
    online, target = trainer.model, copy.deepcopy(trainer.model)
    images, embeddings = {"online": 0, "target": 0}, {"online": 0, "target": 0}
    for name, network in (("online", online), ("target", target)):
        tower = network.encoder.encoders[0].tower

        def count_embedding(*_: object, name: str = name) -> None:
            embeddings[name] += 1

        network.encoder.instruction.register_forward_pre_hook(count_embedding)

        def count(_module: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            images[name] += len(inputs[0])

        tower.register_forward_pre_hook(count)
    trainer.objective.loss(trainer.batches.batch_at(0), online, target)
    assert images == {"online": 64, "target": 64}
    assert embeddings == {"online": 1, "target": 1}


def test_the_target_sees_each_frame_of_a_window_once(tmp_path: Path) -> None:
    """With bootstrap="max" it reads the observations at t and at t + 1, which share all frames but one."""
    history = 4
    tree = TINY | {"objective": {"bootstrap_steps": [1], "bootstrap": "max"}, "data": {"history": history}}
    config = from_dict(get_algorithm("q-transformer").config_class, tree)
    trainer = make_trainer(config, write_view(tmp_path / "store", episodes(20), SIDES), run=tmp_path / "run", seed=0)
    target = copy.deepcopy(trainer.model).eval()
    batch = trainer.batches.batch_at(0)
    images: list[int] = []
    target.encoder.encoders[0].tower.register_forward_pre_hook(lambda _, inputs: images.append(len(inputs[0])))
    tokens_BA, _ = decision_tokens_of(batch, trainer.objective.tokenizer)
    found_BA = trainer.objective.targets(batch, target, tokens_BA)
    assert images == [64 * (history + 1)]
    target.see = lambda observation, instruction: {}  # nothing is handed on: each observation is seen by itself
    target.encode = lambda observation, instruction, seen=None: target.encoder(observation, instruction)
    torch.testing.assert_close(found_BA, trainer.objective.targets(batch, target, tokens_BA))


@pytest.mark.parametrize("bootstrap", ["expectile", "max"])
def test_every_parameter_is_trained(tmp_path: Path, bootstrap: str) -> None:
    """What gets no gradient makes data-parallel training wait for ever, and is dead weight in every checkpoint."""
    tree = TINY | {"objective": {"bootstrap_steps": [1], "bootstrap": bootstrap}}
    config = from_dict(get_algorithm("q-transformer").config_class, tree)
    trainer = make_trainer(config, write_view(tmp_path / "store", episodes(20), SIDES), run=tmp_path / "run", seed=0)
    trainer.objective.loss(trainer.batches.batch_at(0), trainer.model, copy.deepcopy(trainer.model)).total.backward()
    assert not [name for name, parameter in trainer.model.named_parameters() if parameter.grad is None]
