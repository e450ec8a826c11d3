"""Collection: complete, repeatable, and undisturbed by crashes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from qseq.episodes import EpisodeStore
from qseq.errors import DataError, QseqError, RequestError
from qseq.evaluation import PolicyActor, collect, collect_recipe
from tests.evaluation.fakes import Reflex

GRID = "tests.environments.toys:toys/grid-v0"
SLOW = "scripted:tests.evaluation.fakes:Slow"


def same(first: Path, second: Path) -> bool:
    stores = EpisodeStore.open(first), EpisodeStore.open(second)
    equal = all(
        np.array_equal(np.asarray(stores[0].columns[name]), np.asarray(stores[1].columns[name]))
        for name in stores[0].columns
    )
    return equal and stores[0].metadata == stores[1].metadata


@pytest.mark.parametrize("env_id", ["CartPole-v1", "Pendulum-v1", GRID])
def test_random_collection(env_id: str, tmp_path: Path) -> None:
    kwargs = {"max_episode_steps": 12}
    summary = collect("random", env_id, kwargs, episodes=4, seed=2, out=tmp_path / "one", num_envs=1)
    collect("random", env_id, kwargs, episodes=4, seed=2, out=tmp_path / "three", num_envs=3)
    assert (summary.episodes, summary.collected) == (4, 4)
    assert same(tmp_path / "one", tmp_path / "three")
    store = EpisodeStore.open(tmp_path / "one")
    store.verify()
    assert store.num_steps == summary.steps
    assert [meta["index"] for meta in store.metadata] == [0, 1, 2, 3]
    assert {(meta["seed"], meta["source"]) for meta in store.metadata} == {(2, "random")}
    assert store.schema.env == {"id": env_id, "kwargs": kwargs}


def test_the_same_collection_again_adds_nothing(tmp_path: Path) -> None:
    out = tmp_path / "store"
    collect("random", "CartPole-v1", episodes=3, out=out)
    assert collect("random", "CartPole-v1", episodes=3, out=out).collected == 0
    more = collect("random", "CartPole-v1", episodes=5, out=out)
    assert (more.collected, more.episodes) == (2, 5)
    other = collect("random", "CartPole-v1", episodes=2, seed=1, out=out)
    assert (other.collected, other.episodes) == (2, 2)
    assert EpisodeStore.open(out).num_episodes == 7


def test_success_and_instruction_are_recorded(tmp_path: Path) -> None:
    collect("random", GRID, {"length": 40}, episodes=2, out=tmp_path / "store")
    episode = EpisodeStore.open(tmp_path / "store").episode(1)
    assert episode.success is True
    assert episode.terminated
    assert episode.instruction == "wait 0"
    assert episode.observations["camera"].shape == (41, 3, 4, 4)
    collect("random", "CartPole-v1", episodes=2, out=tmp_path / "other", success_return=1000)
    assert EpisodeStore.open(tmp_path / "other").success.tolist() == [0, 0]


def test_abandoned_episodes_are_truncated(tmp_path: Path) -> None:
    collect("scripted:tests.evaluation.fakes:Impatient", "Pendulum-v1", episodes=2, out=tmp_path / "store")
    store = EpisodeStore.open(tmp_path / "store")
    assert store.lengths.tolist() == [5, 5]
    assert store.truncated.all()


def test_policy_collection(tmp_path: Path) -> None:
    actor = PolicyActor(Reflex(), name="reflex", instruction="balance", reseed=True)
    summary = collect(actor, "CartPole-v1", episodes=2, out=tmp_path / "store", success_return=50)
    assert summary.success_rate == 1.0
    store = EpisodeStore.open(tmp_path / "store")
    assert store.metadata[0]["source"] == "reflex"
    assert store.instructions == ["balance"]
    collect(Reflex(), "CartPole-v1", episodes=1, out=tmp_path / "other", source="mine")
    assert EpisodeStore.open(tmp_path / "other").metadata[0]["source"] == "mine"


def test_nothing_is_written_when_the_policy_does_not_fit(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="field 'state' has shape"):
        collect(Reflex(), "Pendulum-v1", episodes=1, out=tmp_path / "store")
    with pytest.raises(RequestError, match="Meta-World only"):
        collect(
            "scripted:qseq.environments.scripted:corrupted_expert", "Pendulum-v1", episodes=1, out=tmp_path / "store"
        )
    assert not (tmp_path / "store").exists()


def test_a_store_of_another_kind_is_refused(tmp_path: Path) -> None:
    collect("random", "CartPole-v1", episodes=1, out=tmp_path / "store")
    with pytest.raises(DataError):
        collect("random", "Pendulum-v1", episodes=1, out=tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").num_episodes == 1


def test_failures_keep_what_was_collected(tmp_path: Path) -> None:
    with pytest.raises(QseqError, match="episode 0, step 2"):
        collect("scripted:tests.evaluation.fakes:Clumsy", "Pendulum-v1", episodes=2, out=tmp_path / "store")
    assert EpisodeStore.open(tmp_path / "store").num_episodes == 0


def test_killed_collection_continues(tmp_path: Path) -> None:
    program = (
        "from qseq.evaluation import collect\n"
        f"collect('{SLOW}', 'Pendulum-v1', {{'max_episode_steps': 40}}, episodes=60, seed=7, out='{tmp_path}/killed')"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    log = tmp_path / "killed"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if (log / "schema.json").is_file() and EpisodeStore.open(log).num_episodes >= 3:
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = EpisodeStore.open(log).num_episodes
    assert 3 <= kept < 60
    kwargs = {"max_episode_steps": 40}
    summary = collect(SLOW, "Pendulum-v1", kwargs, episodes=kept + 4, seed=7, out=log)
    assert (summary.episodes, summary.collected) == (kept + 4, 4)
    collect(SLOW, "Pendulum-v1", kwargs, episodes=kept + 4, seed=7, out=tmp_path / "whole", num_envs=4)
    assert same(log, tmp_path / "whole")
    EpisodeStore.open(log).verify()


@pytest.mark.simulator
@pytest.mark.filterwarnings("ignore:Constant")
def test_recipe_of_two_parts(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    out = tmp_path / "store"
    parts = collect_recipe("half-finished", episodes=5, seed=1, out=out, num_envs=2)
    assert [part.episodes for part in parts] == [2, 3]
    assert [part.collected for part in collect_recipe("half-finished", episodes=5, seed=1, out=out)] == [0, 0]
    store = EpisodeStore.open(out)
    assert [meta["source"] for meta in store.metadata] == ["first-half"] * 2 + ["second-half"] * 3
    assert store.success[:2].tolist() == [0, 0]
    with pytest.raises(RequestError, match="too few"):
        collect_recipe("scarce", episodes=3, out=out)
    with pytest.raises(RequestError, match="start='beginning': recipe 'half-finished' sets it itself"):
        collect_recipe("half-finished", episodes=5, out=out, env_kwargs={"start": "beginning"})


def test_a_recipe_of_babyai(tmp_path: Path) -> None:
    (part,) = collect_recipe(
        "corrupted", "GoToLocal", episodes=3, seed=0, out=tmp_path / "data", env_kwargs={"render_size": 8}
    )
    assert part.collected == 3
    store = EpisodeStore.open(tmp_path / "data")
    assert store.schema.fields["image"].shape == (3, 56, 56)
    assert store.schema.env["kwargs"]["render_size"] == 8
    assert all("go to" in text for text in store.instructions)
