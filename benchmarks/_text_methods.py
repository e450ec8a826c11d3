"""The tasks and methods of the text benchmark: data, model, training, and how each is decoded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

EVALUATION_SEED = 424_242
COMMON = (
    "training.threads=1",
    "training.trackers=[]",
    "training.checkpoint_every=100000",
    "training.log_every=100",
    "training.schedule=cosine",
    "training.target_rate=0.1",
    # AdamW forgets the great gradients of the first steps in fifty steps, not in a thousand.
    "training.betas=[0.9,0.98]",
)
# Imitation of players who mostly act by chance is mostly noise, which would drown the values in a trunk so small.
VALUES = ("objective.cloning_weight=0.1",)


@dataclass(frozen=True, kw_only=True)
class Task:
    """A text environment, its data, and the model and training that suit its size; the same for all methods."""

    environment: str
    arguments: dict[str, Any] = field(default_factory=dict)
    seeded: str | None = None
    """An argument of the environment that differs from seed to seed: its values, by seed, are in `seeds`."""
    seeds: tuple[int, ...] = ()
    level: Literal["words", "characters"] | None = None
    """What a token is; None is what qseq takes for the task."""
    games: int
    pieces: tuple[int, int] | None = None
    """Games are cut into pieces of so many turns; None trains on whole games."""
    endings: int = 0
    """Of every successful game the last turns, as many as the longest piece has, are a piece so many times more."""
    recent_turns: int | None = None
    """Turns that the policy is shown when it plays, and that the value of a piece goes on from."""
    tokens: int
    """Context of the model; more than the data need, as a policy may say more than they do."""
    width: int = 32
    depth: int = 2
    heads: int = 4
    steps: int
    batch_size: int = 64
    learning_rate: float = 4e-3
    overrides: tuple[str, ...] = ()
    """Of all methods that learn values, such as the least return."""
    observation_weight: float = 0.0
    """Weight of the prediction of the environment's words, for all methods."""
    own: dict[str, tuple[str, ...]] = field(default_factory=lambda: {"qrlhf": ("objective.carry=turn",)})
    """Of one algorithm only. Carrying targets along a turn is exact where replies are no chance to one who sees the
    texts."""
    betas: tuple[str, ...] = ("1", "4", ".inf")
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
        games=200,
        pieces=(1, 1),
        recent_turns=1,
        tokens=32,
        steps=4000,
        overrides=("objective.minimum_return=-100", "objective.maximum_return=0", "objective.initial_value=0.95"),
        # A step is a hundredth of the range, and what it costs nothing beside the other losses.
        own={
            "qrlhf": ("objective.carry=turn", "objective.td_weight=100", "objective.conservative_weight=0.5"),
            "ilql": ("objective.value=bounded", "objective.td_weight=100", "objective.state_value_weight=100"),
        },
        max_new_tokens=4,
        sampled_games=100,
    ),
    "maze-partial": Task(
        environment="text:maze-partial",
        arguments={"style": "short"},
        games=1000,
        pieces=(6, 6),
        recent_turns=6,
        endings=10,
        tokens=64,
        width=48,
        steps=2000,
        batch_size=32,
        observation_weight=0.1,
        overrides=(
            "objective.discount=0.9",
            "objective.minimum_return=-10",
            "objective.maximum_return=0",
            "objective.initial_value=0.8",
            "objective.cloning_weight=0.05",
        ),
        own={
            "qrlhf": ("objective.monte_carlo_bound=true", "objective.carry=turn"),
            # Its pieces end with all the rest of their game.
            "lm-mc": ("objective.discount=0.998", "objective.minimum_return=-100"),
        },
        betas=("1", "4", "16", ".inf"),
        max_new_tokens=4,
        sampled_games=100,
    ),
    # Right guesses are rare in the data, and each of them tells a policy which of all words to say.
    "wordle": Task(
        environment="text:wordle",
        arguments={"style": "places"},
        level="words",
        games=120_000,
        tokens=64,
        width=64,
        steps=5000,
        learning_rate=3e-3,
        observation_weight=0.3,
        own={
            "qrlhf": (
                "objective.cloning_temperature=0.3",
                "objective.cloning_weight=1",
                # First words differ by a tenth of a guess, a sixtieth of the range of returns.
                "objective.td_weight=30",
                # Imitation by merit does tell words apart: what it hardly ever says need not be valued.
                "objective.support.top_k=10",
                "guidance.support.top_k=10",
            ),
            "ilql": ("objective.value=bounded",),
        },
        overrides=(
            # What makes a word a good guess is what the policy's rows know of it.
            "model.rows=tied",
            "model.dueling=true",
            # Most of the games that were won: all other returns are alike.
            "data.repeat.share=0.17",
            "data.repeat.times=6",
            "objective.minimum_return=-6",
            "objective.maximum_return=0",
            "objective.initial_value=0.5",
            "objective.cloning_weight=0.05",
            # Every word is as likely as another: none may be left out of the policy's support.
            "objective.support.top_k=0",
            "guidance.support.top_k=0",
        ),
        betas=("0", "1", "2", "4"),
        max_new_tokens=4,
        sampled_games=128,
    ),
    "random-walks": Task(
        environment="text:random-walks",
        seeded="graph_seed",
        seeds=(7, 86, 93, 103, 36),
        games=1000,
        tokens=16,
        steps=500,
        overrides=("objective.minimum_return=0", "objective.maximum_return=1"),
        betas=("4", "16", ".inf"),
        max_new_tokens=12,
        sampled_games=100,
    ),
    "toll-road": Task(
        environment="text:toll-road",
        games=5000,
        tokens=16,
        steps=800,
        overrides=("objective.minimum_return=-40", "objective.maximum_return=20", "objective.initial_value=0.7"),
        max_new_tokens=10,
        sampled_games=100,
    ),
    "market": Task(
        environment="text:market",
        games=1500,
        pieces=(1, 1),
        recent_turns=1,
        tokens=32,
        width=48,
        steps=2000,
        overrides=("objective.minimum_return=-60", "objective.maximum_return=30", "objective.initial_value=0.7"),
        # Values of the best that can follow lie in less than half the range of the returns that were achieved.
        own={
            "qrlhf": (
                "objective.carry=turn",
                "objective.conservative_weight=0.0005",
                "objective.minimum_return=-20",
                "objective.maximum_return=20",
                "objective.initial_value=0.5",
            ),
            "ilql": ("objective.value=bounded", "objective.td_weight=100", "objective.state_value_weight=100"),
        },
        max_new_tokens=4,
        sampled_games=99,
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
    "qrlhf": Method(algorithm="qrlhf", overrides=("objective.conservative_weight=0.005",)),
    "imitation": Method(algorithm="lm-bc", learns_values=False),
    "filtered-10": Method(algorithm="lm-bc", best_share=0.1, learns_values=False),
    "filtered-30": Method(algorithm="lm-bc", best_share=0.3, learns_values=False),
    "monte-carlo": Method(algorithm="lm-mc", fold_returns=True),
    "ilql": Method(algorithm="ilql"),
}
