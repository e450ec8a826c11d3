"""What a Q-Transformer learns: the keys of `objective`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from qseq.configuration import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt
from qseq.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class QObjectiveConfig:
    """What is learnt."""

    discount: Fraction = 0.98
    """Gamma, per step of the environment."""
    bootstrap_steps: tuple[int, ...] = (10,)
    """Horizons n of the n-step return. Of several the best target counts (deterministic worlds only)."""
    bootstrap: Literal["max", "expectile"] = "expectile"
    """What follows a decision is worth: "max", the best bin of the next decision's first token (the paper's backup),
    also between the dimensions of a decision; or "expectile", a value of the state that is learnt from the same
    targets, an upper expectile of what the data's decisions led to (IQL, Kostrikov et al. 2022, section 4). The
    maximum over bins takes the largest error for the best action, which keeps the values of states that lead nowhere
    alive; the expectile looks at actions in the data only. It needs no pass of the target network over actions."""
    expectile: Fraction = 0.7
    """0.5 is the mean over the data's decisions; towards 1, the best of them."""
    value_folds: PositiveInt = 1
    """Networks that learn the value of a state. Of several, each is trained on the episodes outside its fold, and an
    episode bootstraps from the one that has not seen it. One alone learns by heart which episodes failed and calls
    every state of theirs worthless, however good it was: pessimism that serves where successes are many, and hides
    what failures could teach where they are few."""
    monte_carlo_bound: bool = True
    """Targets are at least the return the episode achieved. Biased upward where transitions are stochastic."""
    carry: bool = True
    """With bootstrap="max": inside a decision, a token's target is at least that of the token after it, so a reward
    crosses the whole decision in one backup. Biased upward where transitions are stochastic."""
    conservative_weight: NonNegativeFloat = 4.0
    """Weight of the pull of bins that were not taken towards the least value (1 in the paper). A bin that the data take
    with probability p settles at `target * p / (p + weight / (K - 1))`: the weight says how common an action must be to
    be believed."""
    value: Literal["bounded", "unbounded", "categorical"] = "bounded"
    value_loss: Literal["mse", "bce"] = "bce"
    """Of a bounded value: squared error, or cross-entropy, which has the same minimiser and learns faster, because its
    gradient does not vanish where the value is near its bounds."""
    value_low: float = 0.0
    """Least possible return; also the floor of the conservative regulariser."""
    value_high: float = 1.0
    """Greatest possible return."""
    value_atoms: int = 51
    """Atoms of the categorical value."""
    initial_value: float = 0.05
    """Where Q starts, as a share of the range (bounded values)."""

    prior_weight: NonNegativeFloat = 0.0
    """With bootstrap="expectile": weight of a second head that imitates the decisions that turned out better than the
    value of their state (CRR with a binary advantage, Wang et al. 2020, equation 4; targets are its Q). See
    decoding.prior_weight. Where instructions decide, imitation learns what they mean from every action of a good
    episode, values only from how episodes end."""

    matching_weight: NonNegativeFloat = 0.0
    """Weight of a head that says whether a state is where an instruction leads: trained on the last states of
    successful episodes, half of them with the instruction of another episode, and of failures (the reward classifier of
    LOReL, Nair et al. 2021). For data in which instructions decide what a success is."""
    matching_steps: NonNegativeInt = 0
    """Optimiser steps of the start that train this head alone. What words mean is learnt there in hundreds of steps,
    because what was achieved stands right before the robot; values, which find it ready, take many thousands."""
    mismatched_share: Fraction = 0.0
    """Of the samples that reach the end of a successful episode, how many are shown with the instruction of another
    episode and without the reward there (LOReL, Nair et al. 2021): for data in which instructions decide what a success
    is. Values otherwise learn what words mean from how episodes ended alone. With `matching_weight` its head is asked
    first whether the other instruction fits as well."""
    alike_share: Fraction = 0.0
    """Of the other instructions shown for matching and with `mismatched_share`, how many are as like their own as any
    of the data's, such as those that differ in one word. The words that matter last are learnt from these."""

    double_q: bool = False
    """With bootstrap="max": the online network chooses the best bin and the target network says what it is worth, so
    that one error does not do both (van Hasselt et al. 2016)."""
    consistency_weight: NonNegativeFloat = 0.0
    """With bootstrap="max": weight of the penalty on bins that the online network prefers to the bin a target was made
    with (ConQUR, Su et al. 2020)."""
    regenerative_weight: NonNegativeFloat = 0.0
    """Weight of the squared distance of all weights to their initial values (Kumar et al. 2023)."""

    def __post_init__(self) -> None:
        for name in ("double_q", "consistency_weight"):
            if getattr(self, name) and self.bootstrap != "max":
                raise ConfigError(
                    f'objective.{name}: found {getattr(self, name)}, expected it with objective.bootstrap="max" only: '
                    f'"{self.bootstrap}" takes no maximum over bins'
                )
        for name in ("matching_steps", "alike_share"):
            if getattr(self, name) and not self.matching_weight:
                raise ConfigError(
                    f"objective.{name}: found {getattr(self, name)}, expected 0 with objective.matching_weight=0"
                )
        if self.prior_weight and self.bootstrap != "expectile":
            raise ConfigError(
                f'objective.prior_weight: found {self.prior_weight}, expected 0 with objective.bootstrap="max", which '
                "learns no value of a state to be better than"
            )
        if self.double_q and self.consistency_weight:
            raise ConfigError(
                f"objective.consistency_weight: found {self.consistency_weight}, expected 0 with objective.double_q: "
                "where the online network chooses, its choice is consistent by itself"
            )

    @property
    def state_value_networks(self) -> int:
        """How many a network needs for this objective: none where nothing bootstraps from them."""
        return self.value_folds if self.bootstrap == "expectile" else 0

    def value_arguments(self) -> dict[str, Any]:
        """Arguments of `make_value_transform`, as plain data to store with a policy."""
        return {
            "kind": self.value,
            "low": self.value_low,
            "high": self.value_high,
            "loss": self.value_loss,
            "num_atoms": self.value_atoms,
        }
