"""`qseq train` on data that are mixed, filtered and relabelled by its configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from cli.tools import TINY, Command
from qseq.episodes import RecordedEpisode
from qseq.errors import ConfigError, DataError, RequestError
from qseq.policies import locate_policy
from qseq.policies.data import DataConfig, RelabelConfig, open_view
from tests.episodes.builders import make_store

HERE = "tests.cli.test_data_views"


def distance(episode: RecordedEpisode) -> np.ndarray:
    return -np.abs(episode.actions).sum(axis=-1)


def long(episode: RecordedEpisode) -> bool:
    return episode.num_steps > 2


def short(episode: RecordedEpisode) -> bool:
    return not long(episode)


def told(episode: RecordedEpisode) -> str:
    return "wait" if episode.num_steps > 2 else "go"


not_a_function = 3


@pytest.fixture
def sources(tmp_path: Path) -> list[str]:
    make_store(tmp_path / "a", [3, 2, 4])
    make_store(tmp_path / "b", [5, 1], first_seed=3)
    return [str(tmp_path / "a"), str(tmp_path / "b")]


def test_what_the_configuration_leaves(sources: list[str]) -> None:
    everything = open_view(sources, DataConfig())
    returns = everything.returns()
    middle = float(np.median(returns))
    assert open_view(sources, DataConfig(min_return=middle)).num_episodes == 3
    assert open_view(sources, DataConfig(max_return=middle)).num_episodes == 3
    assert open_view(sources, DataConfig(tasks=("test",))).num_episodes == 5
    with pytest.raises(DataError, match="0 episodes chosen"):
        open_view(sources, DataConfig(tasks=("others",)))
    assert open_view(sources, DataConfig(filter=f"{HERE}:long")).lengths.tolist() == [3, 4, 5]
    relabel = RelabelConfig(reward=f"{HERE}:distance", success_return=-3.0, instruction=f"{HERE}:told")
    view = open_view(sources, DataConfig(relabel=relabel, successes_only=True))
    assert (view.returns() > -3).all()
    assert set(view.instructions) == {"wait", "go"}
    relabel = RelabelConfig(success=f"{HERE}:short")
    assert open_view(sources, DataConfig(relabel=relabel, successes_only=True)).lengths.tolist() == [2, 1]
    relabel = RelabelConfig(success=f"{HERE}:short", failures_end=True)
    view = open_view(sources, DataConfig(relabel=relabel))
    assert view.terminated[view.success == 0].all()
    assert open_view(sources, DataConfig(weights=(0.0, 1.0))).lengths.tolist() == [5, 1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("long", "expected package.module:NAME"),
        ("no.such.module:long", "module 'no.such.module' cannot be imported"),
        (f"{HERE}:no_such", "has no function 'no_such'"),
        (f"{HERE}:not_a_function", "has no function 'not_a_function'"),
    ],
)
def test_functions_that_are_none(sources: list[str], name: str, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        open_view(sources, DataConfig(filter=name))
    with pytest.raises(RequestError, match=message):
        open_view(sources, DataConfig(relabel=RelabelConfig(reward=name)))


def test_one_way_to_tell_success(sources: list[str]) -> None:
    with pytest.raises(ConfigError, match="expected one of them"):
        open_view(sources, DataConfig(relabel=RelabelConfig(success=f"{HERE}:long", success_return=1.0)))


def test_a_resumed_mixture_ends_in_the_same_numbers(qseq: Command, sources: list[str], tmp_path: Path) -> None:
    asked = [
        "data.weights=[1,3]",
        f"data.relabel.reward={HERE}:distance",
        "data.fields=[state]",
        "objective.value=unbounded",
        "objective.bootstrap_steps=[1]",
    ]
    data = ["--algo", "q-transformer", "--data", sources[0], "--data", sources[1]]
    for run, steps in (("whole", [4]), ("parts", [2, 4])):
        for number, until in enumerate(steps):
            resume = ["--resume"] if number else []
            outcome = qseq(
                "train",
                "--algo",
                "q-transformer",
                *data,
                "--out",
                tmp_path / run,
                "--steps",
                until,
                *resume,
                *TINY,
                *asked,
            )
            assert outcome.status == 0, outcome.err
    whole, parts = (load_file(locate_policy(tmp_path / run) / "model.safetensors") for run in ("whole", "parts"))
    assert all(whole[name].equal(parts[name]) for name in whole)
    outcome = qseq("train", "--algo", "bc", "--data", sources[0], "--out", tmp_path / "x", *TINY, "data.weights=[1,3]")
    assert outcome.status == 2
    assert "expected 1 numbers of at least 0" in outcome.error
