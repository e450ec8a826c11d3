"""Measure a policy in an environment."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qseq.environments import make_environment
from qseq.errors import RequestError
from qseq.evaluation.ablation import AblatedActor, shuffled_instructions
from qseq.evaluation.actors import Actor, PolicyActor
from qseq.evaluation.result import EvaluationResult, success_text
from qseq.evaluation.rollout import EpisodeRecord, rollout
from qseq.evaluation.video import VideoRecorder
from qseq.progress import Progress

if TYPE_CHECKING:
    from qseq.policies import Policy

FILMED_EPISODES = 4


def evaluate(
    policy: Policy | Actor,
    env_id: str,
    env_kwargs: Mapping[str, Any] | None = None,
    *,
    episodes: int,
    seed: int = 0,
    num_envs: int = 8,
    success_return: float | None = None,
    instruction: str | None = None,
    shuffle_instructions: bool = False,
    blank: Sequence[str] = (),
    video: Path | None = None,
    video_episodes: int = FILMED_EPISODES,
    run: str | None = None,
) -> EvaluationResult:
    """Run `episodes` episodes and measure success, return, length and speed.

    Episode i starts from a state that depends on (seed, i) only, so the numbers of a deterministic policy do not
    depend on `num_envs`, and two policies measured with one seed meet the same starts.

    Args:
        policy: a trained policy, or an actor (see `make_actor`) such as the random one.
        env_id, env_kwargs: see `make_environment`.
        episodes: at least 1.
        seed: of the starts, and of the policy's own choices where it makes any.
        num_envs: environments stepped together, one decision for all.
        success_return: a return above it is a success, where the environment does not say.
        instruction: told to the policy instead of what the environment says.
        shuffle_instructions: tell it in each episode the instruction of another, different one: success falls as far
            as the policy listens.
        blank: observation fields shown to it as zeros: success falls as far as the policy needs them.
        video: a folder for films of the first `video_episodes` episodes; nothing is rendered without it.
        run: noted in the result.

    Raises:
        RequestError: the environment cannot be made or does not fit the policy; nothing was stepped.
        QseqError: an episode failed; names environment, episode and step.
    """
    if episodes < 1 or num_envs < 1:
        raise RequestError(f"episodes={episodes}, num_envs={num_envs}: expected at least 1 of each")
    if shuffle_instructions and instruction is not None:
        raise RequestError("found both an instruction and shuffle_instructions, expected one of them")
    if isinstance(policy, Actor):
        if instruction is not None:
            raise RequestError("an instruction can be given to a trained policy only")
        actor = policy
    else:
        actor = PolicyActor(policy, instruction=instruction)
        policy.seed(seed)
    first = make_environment(env_id, env_kwargs, render=video is not None)
    environments = [first]
    recorder: VideoRecorder | None = None
    try:
        if shuffle_instructions or blank:
            told = shuffled_instructions(first, episodes=episodes, seed=seed) if shuffle_instructions else None
            actor = AblatedActor(actor, blank=blank, instructions=told)
        actor.prepare(first)
        recorder = VideoRecorder(video, video_episodes) if video is not None else None
        for _ in range(min(num_envs, episodes) - 1):
            environments.append(make_environment(env_id, env_kwargs, render=video is not None))
        records: list[EpisodeRecord] = []
        started = time.perf_counter()
        with Progress(f"evaluating in {env_id.rpartition(':')[2]}", total=episodes, unit="episodes") as progress:
            for record in rollout(
                actor, environments, range(episodes), seed, success_return=success_return, on_frame=recorder
            ):
                if recorder is not None:
                    recorder.finish(record.index)
                records.append(record)
                progress.advance(text=success_text(records))
        seconds = time.perf_counter() - started
    finally:
        if recorder is not None:
            recorder.close()
        for env in environments:
            env.close()
    records.sort(key=lambda record: record.index)
    return EvaluationResult.from_records(
        records, env=env_id, env_kwargs=dict(env_kwargs or {}), seed=seed, run=run, seconds=seconds
    )
