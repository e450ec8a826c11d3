"""Collect, train, collect: each round learns from everything so far and then gathers more with what it learnt.

    OUT/improve.json      what was asked for, so that nothing else is gone on with
    OUT/collected/        one store; the episodes of round r have the source "round r"
    OUT/round_000/ ...    the run of each round, trained afresh on the data given and all that was collected

Everything is decided by what lies there: the same call after an interruption goes on where it stopped.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from qseq.configuration import flatten
from qseq.environments import make_environment
from qseq.episodes import EpisodeStore, open_source
from qseq.episodes.schema import SCHEMA_FILE
from qseq.errors import DataError, RequestError
from qseq.evaluation.actors import Actor, RandomActor
from qseq.evaluation.collect import CollectionSummary, check_counts, collect
from qseq.evaluation.exploration import Exploration, ExploringActor, LinearSchedule, NoisyPolicy
from qseq.evaluation.seeds import call_seed
from qseq.files import write_atomic
from qseq.policies import TokenPolicy, locate_policy
from qseq.registry import get_algorithm, load_policy
from qseq.robot import QTransformerPolicy
from qseq.training import latest_checkpoint, read_record

REQUEST = "improve.json"
COLLECTED = "collected"
_COLLECTING = ("env", "env_kwargs", "episodes", "data", "seed", "success_return", "images")
"""Keys of the request that say what is collected."""


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round: what it collected (None for the first round on data that were given), and its run."""

    number: int
    collection: CollectionSummary | None
    run: Path


def improve(
    algorithm: str,
    config: Any,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    rounds: int,
    episodes: int,
    out: str | Path,
    data: Sequence[str] = (),
    schedule: LinearSchedule | None = None,
    exploration: Exploration = "epsilon",
    seed: int = 0,
    num_envs: int = 1,
    success_return: float | None = None,
    images: str | None = None,
) -> Iterator[Round]:
    """Do the rounds that are not done yet; yields each when it is, also those that were done before.

    The first round trains on `data`, or if there are none on random episodes. Every later one first collects with the
    policy of the round before, exploring by `schedule` over the steps of all these rounds together.

    Args:
        algorithm, config: see `qseq.registry.get_algorithm`. Weights of data: one a source, the last for what is
            collected.
        env_id, env_kwargs: see `make_environment`.
        rounds: in all; may be raised later.
        episodes: that each round collects.
        out: the folder.
        schedule: of epsilon, or of the noise's scale; by default from 0.25 to 0.001 in 1000 steps.
        exploration: "epsilon", or "gumbel" for noise on the values of a Q-function; see `ExploringActor`.
        images: how collected pictures are kept, see `StoreWriter`.
        seed: of everything random. With one environment an interrupted call ends in the numbers of one that was not.

    Raises:
        RequestError: a number is not valid, weights do not fit, the algorithm takes no noise, or `out` was made by
            another request.
    """
    check_counts(episodes, num_envs)
    if rounds < 1:
        raise RequestError(f"rounds: found {rounds}, expected at least 1")
    folder = Path(out)
    schedule = schedule or LinearSchedule(0.25, 0.001, 1000)
    kwargs = dict(env_kwargs or {})
    trained = get_algorithm(algorithm)
    if exploration == "gumbel" and not issubclass(trained.policy_class, QTransformerPolicy):
        raise RequestError(f"exploration: '{algorithm}' learns no values to add noise to; use 'epsilon'")
    make_environment(env_id, kwargs).close()
    for source in data:
        open_source(source)
    sources = [*data, str(folder / COLLECTED)]
    _check_weights(config, sources)
    _settle_request(
        folder,
        {
            "algorithm": algorithm,
            **flatten(config),
            "env": env_id,
            "env_kwargs": kwargs,
            "episodes": episodes,
            "data": list(data),
            "schedule": [schedule.start, schedule.end, schedule.steps],
            "exploration": exploration,
            "seed": seed,
            "success_return": success_return,
            "images": images,
        },
    )
    for number in range(rounds):
        collection = None
        if number or not data:
            collection = collect(
                _actor(folder, number, schedule, exploration, num_envs),
                env_id,
                kwargs,
                episodes=episodes,
                seed=call_seed(seed, number),
                out=folder / COLLECTED,
                num_envs=num_envs,
                success_return=success_return,
                images=images,
                source=f"round {number}",
            )
        run = _run(folder, number)
        if not (run / "config.yaml").is_file():
            shutil.rmtree(run, ignore_errors=True)  # killed before anything was in it
        if not _is_trained(run, config.training.steps):
            here = list(data) if collection is None else sources
            trained.train(
                _weighing(config, here),
                data=here,
                run=run,
                seed=seed + number,
                resume=run.exists(),
                label=f"round {number}",
            )
        yield Round(number=number, collection=collection, run=run)


def _run(folder: Path, number: int) -> Path:
    return folder / f"round_{number:03d}"


def _check_weights(config: Any, sources: Sequence[str]) -> None:
    """Raises RequestError unless there is one weight for each source, or none at all."""
    weights = getattr(config.data, "weights", ())
    if weights and len(weights) != len(sources):
        raise RequestError(
            f"data.weights: found {list(weights)}, expected {len(sources)} numbers: one for each --data, and the last "
            "for what the rounds collect"
        )


def _weighing(config: Any, sources: Sequence[str]) -> Any:
    """The configuration of a round that reads the first of all sources: before anything was collected it has no say."""
    weights = getattr(config.data, "weights", ())
    return replace(config, data=replace(config.data, weights=weights[: len(sources)])) if weights else config


def _is_trained(run: Path, steps: int) -> bool:
    checkpoint = latest_checkpoint(run) if (run / "checkpoints" / "latest").is_file() else None
    return checkpoint is not None and int(read_record(checkpoint)["step"]) == steps


def _actor(folder: Path, number: int, schedule: LinearSchedule, exploration: Exploration, num_envs: int) -> Actor:
    if number == 0:
        return RandomActor()
    run = _run(folder, number - 1)
    policy = load_policy(run)
    if exploration == "gumbel":
        policy = NoisyPolicy.from_pretrained(locate_policy(run))
    return ExploringActor(
        cast(TokenPolicy, policy),
        schedule,
        exploration=exploration,
        first_step=_steps_explored(folder / COLLECTED),
        name=f"round {number}",
        reseed=num_envs == 1,
    )


def _steps_explored(store_folder: Path) -> int:
    """Steps of all rounds but the random one."""
    if not (store_folder / SCHEMA_FILE).is_file():
        return 0
    store = EpisodeStore.open(store_folder)
    explored = [meta["source"] != "round 0" for meta in store.metadata]
    return int(store.lengths[explored].sum())


def _settle_request(folder: Path, request: dict[str, Any]) -> None:
    """Note what was asked for, or check that it is what the folder was made by."""
    path = folder / REQUEST
    if path.is_file():
        changed = _changed(path, request)
        # What a training is told may change for as long as none has begun: a refused value can be mended.
        begun = any(folder.glob("round_*/config.yaml"))
        for key, (found, expected) in changed.items():
            if begun or key in _COLLECTING:
                raise RequestError(
                    f"{key}: found {found!r}, expected {expected!r} as in {path}; to go on ask for the same, for "
                    "anything else choose another folder"
                )
        if not changed:
            return
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"{folder} exists already and was not made by improve; choose another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(path, json.dumps(request, indent=2) + "\n")


def _changed(path: Path, request: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Key -> (found, expected), of what differs from the request that was noted."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        asked = json.loads(json.dumps(request))
        return {key: (value, stored.get(key)) for key, value in asked.items() if stored.get(key) != value}
    except (ValueError, AttributeError) as error:
        raise DataError(f"{path} is damaged: found {error!r}, expected the request that made this folder") from error
