"""Collection by the processes of a Ray cluster gives the store that one process gives, even if a worker dies."""

from __future__ import annotations

import importlib.util
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qseq.episodes import EpisodeStore
from qseq.errors import QseqError, RequestError
from qseq.evaluation import PolicyActor, collect
from tests.episodes.builders import contents
from tests.evaluation.fakes import Reflex

GRID = "tests.environments.toys:toys/grid-v0"
CLUSTER = importlib.util.find_spec("ray") is not None
needs_ray = pytest.mark.skipif(not CLUSTER, reason='needs ray: pip install "qseq[ray]"')


class KilledOnce:
    """A scripted policy whose process is killed in the middle of one episode, the first time that it is run."""

    def __init__(self, env: Any, rng: np.random.Generator, mark: str) -> None:
        self._env, self._rng, self._mark = env, rng, Path(mark)

    def reset(self, observation: Any, info: Any) -> None: ...

    def act(self, observation: Any) -> Any:
        if self._rng.random() < 0.1 and not self._mark.exists():
            self._mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([self._rng.uniform(-2, 2)], np.float32)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One cluster for all tests: starting it takes longest."""
    import ray

    ray.init("local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def stored(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in contents(folder).items() if name != "lock"}


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("policy", ["random", "scripted:tests.evaluation.fakes:Impatient"])
def test_the_same_store(policy: str, tmp_path: Path) -> None:
    kwargs = {"max_episode_steps": 9}
    collect(policy, "Pendulum-v1", kwargs, episodes=7, seed=3, out=tmp_path / "one")
    summary = collect(policy, "Pendulum-v1", kwargs, episodes=5, seed=3, out=tmp_path / "three", workers=3)
    assert summary.collected == 5
    summary = collect(policy, "Pendulum-v1", kwargs, episodes=7, seed=3, out=tmp_path / "three", workers=2)
    assert (summary.episodes, summary.collected) == (7, 2)
    assert stored(tmp_path / "one") == stored(tmp_path / "three")


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_worker_that_dies_is_replaced(tmp_path: Path) -> None:
    def run(name: str, workers: int) -> None:
        policy = "scripted:tests.evaluation.test_ray_workers:KilledOnce"
        kwargs = {"mark": str(tmp_path / "mark")}
        limit = {"max_episode_steps": 20}
        collect(policy, "Pendulum-v1", limit, episodes=6, out=tmp_path / name, policy_kwargs=kwargs, workers=workers)

    run("three", 3)
    assert (tmp_path / "mark").exists()
    run("one", 0)
    assert stored(tmp_path / "one") == stored(tmp_path / "three")


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_a_trained_policy_travels(tmp_path: Path) -> None:
    from qseq.cli.main import main
    from qseq.policies import locate_policy
    from qseq.registry import load_policy
    from tests.evaluation.test_improve import POLE, improve

    assert improve(tmp_path / "out", "--rounds", "1") == 0
    run = tmp_path / "out" / "round_000"
    for name, workers in (("one", "0"), ("two", "2")):
        command = ["collect", *POLE[:6], "--policy", str(run), "--out", str(tmp_path / name), "--workers", workers]
        assert main(command) == 0
    assert stored(tmp_path / "one") == stored(tmp_path / "two")
    actor = PolicyActor(load_policy(locate_policy(run)), name="mine", instruction="balance", reseed=True)
    collect(actor, "CartPole-v1", episodes=2, out=tmp_path / "told", workers=2)
    assert EpisodeStore.open(tmp_path / "told").instructions == ["balance"]


@needs_ray
@pytest.mark.slow
@pytest.mark.usefixtures("cluster")
def test_failures_name_the_episode(tmp_path: Path) -> None:
    with pytest.raises(QseqError, match="episode 0, step 2"):
        collect("scripted:tests.evaluation.fakes:Clumsy", "Pendulum-v1", episodes=2, out=tmp_path / "store", workers=2)
    assert EpisodeStore.open(tmp_path / "store").num_episodes == 0
    with pytest.raises(RequestError, match="acts in its own process only"):
        collect(Stubborn(Reflex()), "CartPole-v1", episodes=1, out=tmp_path / "x", workers=1, success_return=1)


class Stubborn(PolicyActor):
    """An actor of somebody's own."""


@pytest.mark.skipif(CLUSTER, reason="ray is installed")
def test_without_ray(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"qseq\[ray\]"):
        collect("random", GRID, episodes=1, out=tmp_path / "store", workers=2)
    assert not (tmp_path / "store").exists()


def test_workers_have_one_environment_each(tmp_path: Path) -> None:
    for wrong in ({"workers": 2, "num_envs": 2}, {"workers": -1}, {"ray_address": "auto"}):
        with pytest.raises(RequestError, match="expected workers with one environment each"):
            collect("random", GRID, episodes=1, out=tmp_path / "store", **wrong)  # type: ignore[arg-type]
