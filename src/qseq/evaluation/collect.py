"""Collect episodes into a store; run the same collection again after a crash and it goes on where it stopped."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from qseq.environments import DictObservation, make_environment, space_to_json
from qseq.environments.babyai_recipes import babyai_recipe
from qseq.environments.pointmaze import TASKS as MAZES
from qseq.environments.pointmaze_recipes import pointmaze_recipe
from qseq.environments.recipes import recipe
from qseq.episodes import Episode, EpisodeStore, FieldSpec, StoreSchema, StoreWriter
from qseq.errors import RequestError
from qseq.evaluation.actors import Actor, PolicyActor, make_actor
from qseq.evaluation.compatibility import observation_spaces
from qseq.evaluation.rollout import EpisodeRecord, rollout
from qseq.progress import Progress

if TYPE_CHECKING:
    from qseq.policies import Policy

Play = Callable[[list[int]], Iterator[EpisodeRecord]]


@dataclass(frozen=True, kw_only=True)
class CollectionSummary:
    """What `collect` did.

    Attributes:
        out: the store.
        episodes: of this collection, now in the store.
        collected: of these, added by this call.
        steps, success_rate, mean_return, mean_length: over all episodes of this collection; success_rate is None
            when nothing says what success is.
        seconds: that this call took.
    """

    out: str
    episodes: int
    collected: int
    steps: int
    success_rate: float | None
    mean_return: float
    mean_length: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain data; the keys are the attributes."""
        return asdict(self)


def collect(
    actor: Actor | Policy | str,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    episodes: int,
    seed: int = 0,
    out: str | Path,
    policy_kwargs: Mapping[str, Any] | None = None,
    num_envs: int = 1,
    success_return: float | None = None,
    instruction: str | None = None,
    source: str | None = None,
    images: str | None = None,
    workers: int = 0,
    ray_address: str | None = None,
) -> CollectionSummary:
    """Have `out` hold exactly `episodes` episodes of this collection, adding those that are missing.

    Episode i depends on (seed, i) only, and episodes are added in order. A collection is known by its environment,
    actor and seed (noted in each episode's metadata as "collection", with "source", "seed", "index" and "task"), so
    another one, such as the next part of a recipe, is appended to the same store.

    Args:
        actor: "random", "scripted:package.module:NAME", a trained policy, or an `Actor`.
        env_id, env_kwargs: see `make_environment`.
        episodes: at least 1.
        seed: of everything random.
        out: the store's folder; created if needed.
        policy_kwargs: arguments of a scripted policy.
        num_envs: environments stepped together. A trained policy that decides by chance shares its chances between
            them: keep 1 where each episode must be repeatable.
        success_return: a return above it is a success, where the environment does not say.
        instruction: told to a trained policy, and recorded, instead of what the environment says.
        source: what the episodes' metadata calls the actor; its own name by default.
        images: how a new store keeps its pictures, see `StoreWriter`.
        workers: 0 collects here; else so many processes of a Ray cluster do, one environment each, and this process
            writes. The store is the same. Needs `pip install "qseq[ray]"`.
        ray_address: of the cluster, such as "auto"; by default one is started on this machine.

    Raises:
        RequestError: the environment cannot be made, does not fit the policy or the store; nothing was stepped.
        DataError: `out` is damaged or an episode is not valid.
        QseqError: an episode failed; names environment, episode and step. What was added before stays.
    """
    check_counts(episodes, num_envs)
    if workers < 0 or (workers and num_envs > 1) or (ray_address is not None and not workers):
        raise RequestError(
            f"workers={workers}, num_envs={num_envs}, ray_address={ray_address}: expected workers with one environment "
            "each, or none of them"
        )
    performer = _performer(actor, policy_kwargs, instruction, reseed=num_envs == 1)
    kwargs = dict(env_kwargs or {})
    environments = [make_environment(env_id, kwargs)]
    try:
        performer.prepare(environments[0])
        identity = identity_of(performer.fingerprint(), env_id, kwargs, seed)
        play: Play | None = None
        if workers:
            from qseq.evaluation.ray_workers import RayWorkers

            play = RayWorkers(performer, env_id, kwargs, seed, success_return, workers, ray_address).play
        return collect_episodes(
            performer,
            environments,
            lambda: make_environment(env_id, kwargs),
            out=Path(out),
            episodes=episodes,
            seed=seed,
            base={"source": source or performer.name, "seed": seed, "collection": identity},
            env_json={"id": env_id, "kwargs": kwargs},
            num_envs=num_envs,
            success_return=success_return,
            images=images,
            play=play,
        )
    finally:
        for env in environments:
            env.close()


def collect_episodes(
    actor: Actor,
    environments: list[DictObservation],
    make_another: Callable[[], DictObservation],
    *,
    out: Path,
    episodes: int,
    seed: int,
    base: Mapping[str, Any],
    env_json: dict[str, Any],
    num_envs: int = 1,
    success_return: float | None = None,
    images: str | None = None,
    play: Play | None = None,
) -> CollectionSummary:
    """What `collect` does once it is known who acts where.

    Args:
        actor: `prepare` has been called.
        environments: the first one; others that are needed are appended. The caller closes them.
        make_another: makes an environment like the first.
        base: metadata of every episode; "collection" is what this collection is known by.
        env_json: how the store describes the environment.
        play: runs episodes elsewhere: indices -> their records, in any order. By default they are run here.
    """
    started = time.perf_counter()
    identity = base["collection"]
    with StoreWriter(out, _schema(environments[0], env_json), images=images) as writer:
        missing = _missing(out, identity, episodes)
        if play is None:
            for _ in range(min(num_envs, len(missing)) - 1):
                environments.append(make_another())
            records = rollout(actor, environments, missing, seed, keep_steps=True, success_return=success_return)
        else:
            records = play(missing)
        _add_missing(writer, records, missing, base, actor.instruction, episodes)
    return _summary(out, identity, len(missing), time.perf_counter() - started)


def check_counts(episodes: int, num_envs: int) -> None:
    """Raise RequestError unless there is at least one of each."""
    if episodes < 1 or num_envs < 1:
        raise RequestError(f"episodes={episodes}, num_envs={num_envs}: expected at least 1 of each")


def collect_recipe(
    name: str,
    task: str = "push-v3",
    *,
    episodes: int,
    seed: int = 0,
    out: str | Path,
    num_envs: int = 1,
    env_kwargs: Mapping[str, Any] | None = None,
    images: str | None = None,
) -> list[CollectionSummary]:
    """Collect `episodes` episodes as a recipe says, one summary a part.

    Tasks named "...-v3" are Meta-World's (`qseq.environments.recipes`), "umaze", "medium" and "large" PointMaze's
    (`...pointmaze_recipes`), others BabyAI's (`...babyai_recipes`).

    Part k has seed `1000 * seed + k`. Crash-safe like `collect`. `env_kwargs` are further arguments of the environment,
    such as `image_size`, that the recipe leaves open.

    Raises:
        RequestError: there is no such recipe or task, too few episodes for its parts, or an argument that the recipe
            sets itself.
    """
    of_other_tasks = pointmaze_recipe if task in MAZES else babyai_recipe
    parts = recipe(name, task) if task.endswith("-v3") else of_other_tasks(name, task)
    asked = dict(env_kwargs or {})
    for taken in sorted(set(asked) & {key for part in parts for key in part.env_kwargs}):
        raise RequestError(f"env kwarg {taken}={asked[taken]!r}: recipe '{name}' sets it itself; leave it out")
    # Whole numbers that add up: each part ends where its cumulative share does.
    ends = [round(episodes * sum(part.fraction for part in parts[: i + 1])) for i in range(len(parts))]
    counts = np.diff([0, *ends]).tolist()
    if min(counts) < 1:
        raise RequestError(f"recipe '{name}' has {len(parts)} parts: {episodes} episodes are too few for each of them")
    return [
        collect(
            part.policy,
            part.env_id,
            {**part.env_kwargs, **asked},
            episodes=count,
            seed=1000 * seed + number,
            out=out,
            policy_kwargs=part.policy_kwargs,
            num_envs=num_envs,
            source=part.name,
            images=images,
        )
        for number, (part, count) in enumerate(zip(parts, counts, strict=True))
    ]


def _performer(
    actor: Actor | Policy | str, kwargs: Mapping[str, Any] | None, instruction: str | None, reseed: bool
) -> Actor:
    if isinstance(actor, str):
        actor = make_actor(actor, kwargs)
    elif kwargs:
        raise RequestError(f"policy arguments {dict(kwargs)} are for scripted policies only")
    if isinstance(actor, Actor):
        if instruction is not None:
            raise RequestError("an instruction can be given to a trained policy only")
        return actor
    return PolicyActor(actor, instruction=instruction, reseed=reseed)


def identity_of(actor: str, env_id: str, env_kwargs: Mapping[str, Any], seed: int) -> str:
    """What a collection is known by. Raises RequestError if the arguments cannot be written as JSON."""
    try:
        text = json.dumps([env_id, dict(env_kwargs), actor, seed], sort_keys=True)
    except TypeError as error:
        raise RequestError(f"env_kwargs {dict(env_kwargs)} cannot be written as JSON: {error}") from error
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _schema(env: DictObservation, env_json: dict[str, Any]) -> StoreSchema:
    fields = {
        name: FieldSpec(np.dtype(space.dtype).name, tuple(space.shape or ()))
        for name, space in observation_spaces(env).items()
    }
    return StoreSchema(fields, space_to_json(env.action_space), env_json)


def _missing(out: Path, identity: str, episodes: int) -> list[int]:
    present = {meta.get("index") for meta in EpisodeStore.open(out).metadata if meta.get("collection") == identity}
    return [index for index in range(episodes) if index not in present]


def _add_missing(
    writer: StoreWriter,
    records: Iterator[EpisodeRecord],
    missing: list[int],
    base: Mapping[str, Any],
    instruction: str | None,
    total: int,
) -> None:
    if not missing:
        return
    finished: dict[int, EpisodeRecord] = {}
    order = iter(missing)
    following = next(order, None)
    done, known = total - len(missing), []
    with Progress("collecting", total=total, unit="episodes", done=done) as progress:
        for record in records:
            finished[record.index] = record
            if record.success is not None:
                known.append(record.success)
            # Added in order whatever ends first, so that the store does not depend on the number of environments.
            while following is not None and following in finished:
                writer.add(_episode(finished.pop(following), base, instruction))
                following = next(order, None)
            progress.advance(text=f"success {sum(known) / len(known):.0%}" if known else None)


def _episode(record: EpisodeRecord, base: Mapping[str, Any], instruction: str | None) -> Episode:
    names = record.observations[0]
    metadata = {**base, "index": record.index}
    if record.task is not None:
        metadata["task"] = record.task
    return Episode(
        observations={name: np.stack([seen[name] for seen in record.observations]) for name in names},
        actions=np.stack(record.actions),
        rewards=np.asarray(record.rewards, dtype=np.float32),
        terminated=record.terminated,
        truncated=record.truncated,
        success=record.success,
        instruction=record.instruction if instruction is None else instruction,
        metadata=metadata,
    )


def _summary(out: Path, identity: str, collected: int, seconds: float) -> CollectionSummary:
    store = EpisodeStore.open(out)
    ours = np.array([meta.get("collection") == identity for meta in store.metadata], dtype=bool)
    success, lengths = store.success[ours], store.lengths[ours]
    known = success[success >= 0]
    return CollectionSummary(
        out=str(out),
        episodes=int(ours.sum()),
        collected=collected,
        steps=int(lengths.sum()),
        success_rate=float(known.mean()) if known.size else None,
        mean_return=float(store.returns()[ours].mean()),
        mean_length=float(lengths.mean()),
        seconds=seconds,
    )
