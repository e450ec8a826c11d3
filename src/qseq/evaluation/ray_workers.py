"""Episodes run by processes of a Ray cluster, on this machine or many.

A worker has an environment and an actor of its own and runs one episode at a time; episode i is a function of (seed, i)
wherever it is run, so the store is the same as if one process had collected it. A trained policy travels as its files:
the machines share no disk, they only have qseq and the environment installed. A worker that dies is started again and
its episode run again.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qseq.environments import make_environment
from qseq.errors import QseqError, RequestError
from qseq.evaluation.actors import Actor, PolicyActor, RandomActor, ScriptedActor, make_actor
from qseq.evaluation.rollout import EpisodeRecord, rollout

_AHEAD = 4  # episodes a worker may be before the one that is written next
_RESTARTS = 3


@dataclass(frozen=True)
class ActorFiles:
    """What another machine makes an actor of.

    Attributes:
        name: see `Actor`.
        kwargs: of a scripted policy.
        instruction: see `Actor`.
        files: of a trained policy, name -> bytes.
    """

    name: str
    kwargs: Mapping[str, Any]
    instruction: str | None
    files: Mapping[str, bytes]

    @classmethod
    def of(cls, actor: Actor) -> ActorFiles:
        """Raises RequestError for an actor that cannot travel."""
        if isinstance(actor, RandomActor | ScriptedActor):
            return cls(actor.name, dict(getattr(actor, "kwargs", {})), None, {})
        if type(actor) is PolicyActor:
            with tempfile.TemporaryDirectory() as folder:
                actor.policy.save_pretrained(folder)
                files = {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.is_file()}
            return cls(actor.name, {}, actor.instruction, files)
        raise RequestError(
            f"workers: an actor of kind {type(actor).__name__} acts in its own process only; leave them out"
        )

    def make(self) -> Actor:
        """The actor, on the machine that this is called on."""
        if not self.files:
            return make_actor(self.name, self.kwargs)
        from qseq.registry import load_policy

        with tempfile.TemporaryDirectory() as folder:
            for name, content in self.files.items():
                (Path(folder) / name).write_bytes(content)
            policy = load_policy(folder)
        return PolicyActor(policy, name=self.name, instruction=self.instruction, reseed=True)


class EpisodeWorker:
    """What runs on the cluster."""

    def __init__(
        self, actor: ActorFiles, env_id: str, env_kwargs: dict[str, Any], seed: int, success_return: float | None
    ) -> None:
        self._actor = actor.make()
        self._environment = make_environment(env_id, env_kwargs)
        self._actor.prepare(self._environment)
        self._seed = seed
        self._success_return = success_return

    def run(self, index: int) -> EpisodeRecord:
        (record,) = rollout(
            self._actor,
            [self._environment],
            [index],
            self._seed,
            keep_steps=True,
            success_return=self._success_return,
        )
        return record


class RayWorkers:
    """Several `EpisodeWorker`s.

    Args:
        actor: who acts; a copy goes to each worker.
        env_id, env_kwargs: see `make_environment`.
        seed, success_return: see `rollout`.
        workers: how many.
        address: of a cluster, such as "auto"; None starts one on this machine, which ends with the episodes.

    Raises:
        RequestError: Ray is not installed, the cluster cannot be reached, or the actor cannot travel.
    """

    def __init__(
        self,
        actor: Actor,
        env_id: str,
        env_kwargs: dict[str, Any],
        seed: int,
        success_return: float | None,
        workers: int,
        address: str | None = None,
    ) -> None:
        try:
            import ray
        except ImportError as error:
            raise RequestError('collecting with workers needs ray: pip install "qseq[ray]"') from error
        self._ray = ray
        self._arguments = (ActorFiles.of(actor), env_id, env_kwargs, seed, success_return)
        self._workers = workers
        self._address = address

    def play(self, indices: list[int]) -> Iterator[EpisodeRecord]:
        """Run the episodes; each is yielded when it has ended, none long before those that come first.

        Raises:
            QseqError: an episode failed, as in `rollout`, or a worker died again and again.
        """
        if not indices:
            return
        ray = self._ray
        ours = not ray.is_initialized()
        if ours:
            self._connect()
        try:
            yield from self._play(indices)
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, QseqError):
                raise error.cause from None
            raise QseqError(f"a worker failed: {error.cause!r}") from error
        except ray.exceptions.RayActorError as error:
            raise QseqError(f"a worker died and could not be started again: {error}") from error
        finally:
            if ours:
                ray.shutdown()

    def _connect(self) -> None:
        options = {} if self._address is not None else {"num_cpus": self._workers}
        try:
            self._ray.init(
                address=self._address or "local",
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                **options,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            line = str(error).splitlines()[0]
            raise RequestError(
                f"ray: the cluster at {self._address or 'this machine'} cannot be reached: {line}"
            ) from error

    def _play(self, indices: list[int]) -> Iterator[EpisodeRecord]:
        ray = self._ray
        remote = ray.remote(num_cpus=1, max_restarts=_RESTARTS, max_task_retries=_RESTARTS)(EpisodeWorker)
        # More than there are cores for would wait for one another.
        count = max(1, min(self._workers, len(indices), int(ray.cluster_resources().get("CPU", 1))))
        workers = [remote.remote(*self._arguments) for _ in range(count)]
        free, running = list(workers), {}
        waiting = list(reversed(indices))
        unfinished = set(indices)
        try:
            while unfinished:
                # In order, and not far ahead of the oldest: what has ended is held in memory until that one has.
                horizon = len(indices) - len(unfinished) + _AHEAD * count
                while free and waiting and len(indices) - len(waiting) < horizon:
                    worker, index = free.pop(), waiting.pop()
                    running[worker.run.remote(index)] = (worker, index)
                ended, _ = ray.wait(list(running), num_returns=1)
                worker, index = running.pop(ended[0])
                record = ray.get(ended[0])
                free.append(worker)
                unfinished.discard(index)
                yield record
        finally:
            for worker in workers:
                ray.kill(worker)
