"""Pictures and instructions: which side holds the colour that is named?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from qseq import Episode, load_policy
from qseq.configuration import from_dict
from qseq.errors import RequestError
from qseq.registry import get_algorithm
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


def test_pictures_the_tower_cannot_take_are_refused_by_name(tmp_path: Path) -> None:
    episode = episodes(1)[0]
    last = {"image": np.moveaxis(episode.observations["image"], 1, -1)}
    write_view(tmp_path / "store", [Episode(**{**vars(episode), "observations": last})], SIDES)
    algorithm = get_algorithm("q-transformer")
    with pytest.raises(RequestError, match=r"'image' has shape \[16, 16, 3\].*\[channels, height, width\].*width is 3"):
        algorithm.train(
            from_dict(algorithm.config_class, TINY), data=[str(tmp_path / "store")], run=tmp_path / "run", seed=0
        )
