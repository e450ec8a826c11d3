"""Batches of requests -> answers, by the policy that is served now. Everything here runs in one thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from qseq.errors import QseqError
from qseq.policies import DecisionValues, Policy
from qseq.serving.requests import Request

log = logging.getLogger("qseq.serving")


@dataclass(frozen=True, kw_only=True)
class Work:
    """A request of a client, under the number by which the policy remembers it."""

    client: int
    request: Request


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a client is told.

    Attributes:
        actions: `[h, dim]`, for now and the steps after it; actions of other shapes are flattened.
        step: of training, of the checkpoint that decided.
        seconds: that the batch took. batch_size: requests in it.
        shown: what the decision was chosen from, where somebody looks on.
    """

    actions: np.ndarray
    step: int | None
    seconds: float
    batch_size: int
    shown: DecisionValues | None = None


class Engine:
    """The policy, asked for the actions of several clients at once.

    Args:
        step: of training, of its checkpoint.
    """

    def __init__(self, policy: Policy, step: int | None) -> None:
        self.policy = policy
        self.step = step

    def decide(self, works: Sequence[Work], watched: Collection[int] = ()) -> list[Answer | QseqError]:
        """An answer or what is wrong, for each; a wrong request spoils no other. Each client is in it once at most."""
        start = time.perf_counter()
        policy = self.policy
        policy.reset([work.client for work in works if work.request.reset])
        policy.drop_pending([work.client for work in works if not work.request.goes_on])
        if policy.decisions_shown is not None:
            policy.decisions_shown.only(watched)
        alike: dict[tuple[str, ...], list[int]] = {}
        for place, work in enumerate(works):
            alike.setdefault(work.request.types, []).append(place)
        found: dict[int, np.ndarray | QseqError] = {}
        for places in alike.values():
            found |= zip(places, self._act([works[place] for place in places]), strict=True)
        seconds = time.perf_counter() - start
        answers: list[Answer | QseqError] = []
        for place, work in enumerate(works):
            actions = found[place]
            if isinstance(actions, QseqError):
                answers.append(actions)
                continue
            shown = None if policy.decisions_shown is None else policy.decisions_shown[work.client]
            answers.append(Answer(actions=actions, step=self.step, seconds=seconds, batch_size=len(works), shown=shown))
        return answers

    def forget(self, client: int) -> None:
        """The client is gone."""
        self.policy.reset([client])

    def replace(self, policy: Policy, step: int | None) -> None:
        """Another checkpoint decides from now on; clients' episodes go on."""
        policy.adopt(self.policy)
        self.policy, self.step = policy, step

    def _act(self, works: Sequence[Work]) -> list[np.ndarray | QseqError]:
        policy = self.policy
        clients = [work.client for work in works]
        batch = {name: np.stack([work.request.frames[name] for work in works]) for name in policy.observation_fields}
        texts = [work.request.instruction or "" for work in works] if policy.takes_instructions else None
        try:
            actions = policy.act(batch, texts, environment_ids=clients)
        except QseqError as error:
            if len(works) == 1:
                return [error]
            return [answer for work in works for answer in self._act([work])]
        except Exception as error:  # a client must not end the service for the others
            log.exception("the policy failed")
            return [QseqError(f"the policy failed ({type(error).__name__}); see the server's log")] * len(works)
        return [
            np.stack([np.asarray(action), *policy.pending(client)]).reshape(1 + len(policy.pending(client)), -1)
            for action, client in zip(actions, clients, strict=True)
        ]
