"""Measure a policy in a text environment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from qseq.environments.text import FiniteStarts, TextEnvironment, make_text_environment
from qseq.errors import RequestError
from qseq.evaluation.result import EvaluationResult, success_text
from qseq.evaluation.rollout import EpisodeRecord
from qseq.evaluation.text_actors import PolicyTextActor, TextActor
from qseq.evaluation.text_games import TextGame, play
from qseq.progress import Progress


def evaluate_text(
    policy: Any,
    environment: str | Callable[[], TextEnvironment],
    environment_arguments: Mapping[str, Any] | None = None,
    *,
    episodes: int,
    seed: int = 0,
    num_envs: int = 32,
    every_start: bool = False,
    run: str | None = None,
) -> EvaluationResult:
    """Play `episodes` games and measure success, return, length and speed.

    Game i starts as a function of (seed, i) only, so two policies measured with one seed meet the same starts.

    Args:
        policy: has `act(histories) -> actions` (or is such a function), or `respond(prompts) -> answers` as trained
            language policies have; or scripted players.
        environment: "text:maze" and so on, "text:package.module:NAME", or a function that makes one.
        environment_arguments: of an environment given by name.
        episodes: at least 1.
        seed: of the starts and of the scripted players' choices.
        num_envs: games played side by side, one call of the policy for all.
        every_start: begin at each of the environment's starts in turn: with `episodes` a multiple of their number and
            a policy without chance, the mean return is exact.
        run: noted in the result.

    Returns:
        The result; `mean_length` counts the player's turns.

    Raises:
        RequestError: the environment cannot be made, or has no list of starts where `every_start` is asked for.
        QseqError: a game failed.
    """
    if episodes < 1 or num_envs < 1:
        raise RequestError(f"episodes={episodes}, num_envs={num_envs}: expected at least 1 of each")
    environments = make_environments(environment, environment_arguments, min(num_envs, episodes))
    if every_start and not isinstance(environments[0], FiniteStarts):
        raise RequestError(f"every_start: {type(environments[0]).__name__} has no list of starts")
    actor = (
        policy if isinstance(policy, TextActor) else PolicyTextActor(policy, single_turn=environments[0].single_turn)
    )
    name = environment if isinstance(environment, str) else type(environments[0]).__name__
    records: list[EpisodeRecord] = []
    started = time.perf_counter()
    with Progress(f"evaluating in {name}", total=episodes, unit="games") as progress:
        for game in play(actor, environments, range(episodes), seed, every_start=every_start):
            records.append(_record(game))
            progress.advance(text=success_text(records))
    seconds = time.perf_counter() - started
    records.sort(key=lambda record: record.index)
    return EvaluationResult.from_records(
        records, env=name, env_kwargs=dict(environment_arguments or {}), seed=seed, run=run, seconds=seconds
    )


def make_environments(
    environment: str | Callable[[], TextEnvironment], arguments: Mapping[str, Any] | None, count: int
) -> list[TextEnvironment]:
    """So many environments, all alike.

    Raises:
        RequestError: they cannot be made, or arguments are given to a function that makes them.
    """
    if isinstance(environment, str):
        return [make_text_environment(environment, arguments) for _ in range(count)]
    if arguments:
        raise RequestError("arguments of the environment are for one given by name: give them to your function")
    return [environment() for _ in range(count)]


def _record(game: TextGame) -> EpisodeRecord:
    return EpisodeRecord(
        index=game.index,
        seed=game.seed,
        length=len(game.rewards),
        total_reward=game.total_reward,
        terminated=game.terminated,
        truncated=game.truncated,
        success=game.success,
    )
