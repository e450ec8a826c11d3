"""Text games played side by side, so that a policy answers all of them at once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from qseq.environments.text import FiniteStarts, Message, TextEnvironment
from qseq.errors import QseqError
from qseq.evaluation.seeds import actor_rng, episode_seed
from qseq.evaluation.text_actors import TextActor


@dataclass(kw_only=True)
class TextGame:
    """A game that goes on or has ended.

    Attributes:
        messages: alternate; the first is the environment's. The last is the player's where the game has terminated
            (its closing words are no state), the environment's where it was truncated.
        rewards: one an action.
        token_rewards: of a single-turn task that gives a reward a token; else None.
    """

    index: int
    seed: int
    player: str = ""
    messages: list[Message] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)
    token_rewards: list[float] | None = None
    terminated: bool = False
    truncated: bool = False
    success: bool | None = None

    @property
    def total_reward(self) -> float:
        return float(sum(self.rewards))


def play(
    actor: TextActor,
    environments: Sequence[TextEnvironment],
    indices: Iterable[int],
    seed: int,
    *,
    every_start: bool = False,
) -> Iterator[TextGame]:
    """Play the games `indices` and yield each as it ends; an environment that is free takes the next one.

    Args:
        actor: who plays.
        environments: one slot each, all alike.
        indices: numbers of games; start and scripted choices of game i are a pure function of (seed, i).
        seed: of them all.
        every_start: game i begins at start i modulo their number, not at a drawn one (`FiniteStarts` only).

    Raises:
        QseqError: environment or actor gave what is not valid; names environment, game and turn.
    """
    waiting = iter(indices)
    running: dict[int, TextGame] = {}

    def begin(slot: int) -> None:
        index = next(waiting, None)
        if index is None:
            running.pop(slot, None)
            return
        environment = environments[slot]
        game = running[slot] = TextGame(index=index, seed=episode_seed(seed, index))
        if every_start and isinstance(environment, FiniteStarts):
            text = environment.reset_to(index % environment.num_starts)
        else:
            text = environment.reset(game.seed)
        game.messages.append({"role": "user", "content": _text(text, environment, game)})
        game.player = actor.start(slot, environment, actor_rng(seed, index))

    for slot in range(len(environments)):
        begin(slot)
    while running:
        slots = list(running)
        actions = actor.act(slots, [list(running[slot].messages) for slot in slots])
        if len(actions) != len(slots):
            raise QseqError(f"the policy gave {len(actions)} actions for {len(slots)} games")
        for slot, action in zip(slots, actions, strict=True):
            game = running[slot]
            _take(environments[slot], game, action)
            if game.terminated or game.truncated:
                game.success = environments[slot].success()
                yield game
                begin(slot)


def _take(environment: TextEnvironment, game: TextGame, action: str) -> None:
    where = _where(environment, game)
    if not isinstance(action, str):
        raise QseqError(f"{where}: the policy gave {type(action).__name__}, expected text")
    text, reward, terminated, truncated = environment.step(action)
    if not np.isfinite(reward):
        raise QseqError(f"{where}: the environment gave reward {reward}, expected a finite number")
    game.messages.append({"role": "assistant", "content": action})
    game.rewards.append(float(reward))
    game.terminated, game.truncated = bool(terminated), bool(truncated) and not terminated
    game.token_rewards = environment.token_rewards()
    if not game.terminated:
        game.messages.append({"role": "user", "content": _text(text, environment, game)})


def _text(text: str, environment: TextEnvironment, game: TextGame) -> str:
    if not isinstance(text, str):
        raise QseqError(f"{_where(environment, game)}: the environment gave {type(text).__name__}, expected text")
    return text


def _where(environment: TextEnvironment, game: TextGame) -> str:
    return f"{type(environment).__name__}, game {game.index}, turn {len(game.rewards)}"
