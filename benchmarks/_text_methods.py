"""The tasks and methods of the text benchmark: data, model, training, and how each is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EVALUATION_SEED = 424_242
COMMON = ("training.threads=1", "training.trackers=[]", "training.checkpoint_every=100000", "training.log_every=100")


@dataclass(frozen=True, kw_only=True)
class Task:
    """A text environment, its data, and the model and training that suit its size; the same for all methods."""

    environment: str
    arguments: dict[str, Any] = field(default_factory=dict)
    seeded: str | None = None
    """An argument of the environment that differs from seed to seed: its values, by seed, are in `seeds`."""
    seeds: tuple[int, ...] = ()
    games: int
    pieces: tuple[int, int] | None = None
    """Games are cut into pieces of so many turns; None trains on whole games."""
    recent_turns: int | None = None
    """Turns that the policy is shown when it plays, and that the value of a piece goes on from."""
    tokens: int
    """Context of the model; more than the data need, as a policy may say more than they do."""
    width: int = 64
    depth: int = 2
    heads: int = 4
    steps: int
    batch_size: int = 64
    learning_rate: float = 1e-3
    overrides: tuple[str, ...] = ()
    """Of all methods that learn values, such as the least return."""
    betas: tuple[str, ...] = ("1", "4", "16", ".inf")
    """Weights of the values at decoding, per unit of return; imitation has none."""
    max_new_tokens: int
    sampled_games: int
    """Games of an evaluation by sampling; by greedy decoding each start is played once."""

    def environment_arguments(self, seed: int) -> dict[str, Any]:
        """The environment of a seed."""
        if self.seeded is None:
            return self.arguments
        return {**self.arguments, self.seeded: self.seeds[seed % len(self.seeds)]}


TASKS = {
    "maze": Task(
        environment="text:maze",
        arguments={"style": "short"},
        games=1000,
        pieces=(1, 8),
        recent_turns=3,
        tokens=128,
        steps=3000,
        overrides=("objective.minimum_return=-100", "objective.maximum_return=0"),
        max_new_tokens=4,
        sampled_games=200,
    ),
    "maze-partial": Task(
        environment="text:maze-partial",
        arguments={"style": "short"},
        games=2000,
        pieces=(10, 20),
        recent_turns=20,
        tokens=256,
        steps=4000,
        batch_size=32,
        overrides=("objective.minimum_return=-100", "objective.maximum_return=0"),
        max_new_tokens=4,
        sampled_games=200,
    ),
    "wordle": Task(
        environment="text:wordle",
        games=20_000,
        tokens=128,
        width=128,
        depth=3,
        steps=6000,
        overrides=("objective.minimum_return=-6", "objective.maximum_return=0"),
        max_new_tokens=8,
        sampled_games=256,
    ),
    "random-walks": Task(
        environment="text:random-walks",
        seeded="graph_seed",
        seeds=(7, 86, 93, 103, 36),
        games=1000,
        tokens=16,
        steps=3000,
        overrides=("objective.minimum_return=0", "objective.maximum_return=1"),
        betas=("4", "16", "64", ".inf"),
        max_new_tokens=12,
        sampled_games=200,
    ),
    "toll-road": Task(
        environment="text:toll-road",
        games=2000,
        tokens=16,
        steps=3000,
        overrides=("objective.minimum_return=-40", "objective.maximum_return=20"),
        max_new_tokens=10,
        sampled_games=200,
    ),
    "market": Task(
        environment="text:market",
        games=2000,
        tokens=128,
        steps=3000,
        overrides=("objective.minimum_return=-60", "objective.maximum_return=30"),
        max_new_tokens=4,
        sampled_games=150,
    ),
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """An algorithm with its settings; everything not named here has qseq's default."""

    algorithm: str
    best_share: float = 1.0
    """Train on this share of the games, those of the greatest returns; taken before games are cut into pieces."""
    fold_returns: bool = False
    """Pieces carry the rewards of the rest of their game: for regression on what was achieved."""
    learns_values: bool = True
    overrides: tuple[str, ...] = ()


METHODS = {
    "qrlhf": Method(algorithm="qrlhf"),
    "imitation": Method(algorithm="lm-bc", learns_values=False),
    "filtered-10": Method(algorithm="lm-bc", best_share=0.1, learns_values=False),
    "filtered-30": Method(algorithm="lm-bc", best_share=0.3, learns_values=False),
    "monte-carlo": Method(algorithm="lm-mc", fold_returns=True),
    "ilql": Method(algorithm="ilql"),
}
