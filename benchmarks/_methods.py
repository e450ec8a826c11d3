"""The methods of the learning benchmark: how each is trained, and how it decides when it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

EVALUATION_EPISODES, EVALUATION_SEED = 100, 424_242
STEPS = 2500
_COMMON = ("training.precision=bf16", "training.threads=1", "training.trackers=[]", "training.checkpoint_every=100000")


@dataclass(frozen=True, kw_only=True)
class Method:
    """An algorithm with its settings; everything not named here has qseq's default."""

    algorithm: str
    steps: int = STEPS
    overrides: tuple[str, ...] = _COMMON
    decodings: tuple[str, ...] = ("greedy",)
    peer: bool = False


def _variant(*overrides: str) -> Method:
    return Method(algorithm="q-transformer", overrides=(*_COMMON, *overrides))


METHODS = {
    "q-transformer": Method(algorithm="q-transformer"),
    "bc": Method(algorithm="bc", decodings=("greedy", "sample")),
    "filtered-bc": Method(algorithm="filtered-bc", decodings=("greedy", "sample")),
    # One thing changed at a time.
    "no-bound": _variant("objective.monte_carlo_bound=false"),
    "weight-1": _variant("objective.conservative_weight=1"),
    "no-regulariser": _variant("objective.conservative_weight=0"),
    "1-step": _variant("objective.bootstrap_steps=[1]"),
    "max-backup": _variant("objective.bootstrap=max"),
    "mse": _variant("objective.value_loss=mse"),
    "hl-gauss": _variant("objective.value=categorical"),
    # Values from folds that have not seen the episode, with the settings that suit them (not one change).
    "folds": _variant("objective.value_folds=4", "objective.expectile=0.9", "objective.conservative_weight=1"),
    # Defaults, gamma as ours.
    "d3rlpy-iql": Method(algorithm="iql", steps=10_000, peer=True),
    "d3rlpy-td3+bc": Method(algorithm="td3+bc", steps=10_000, peer=True),
    "d3rlpy-cql": Method(algorithm="cql", steps=5_000, peer=True),
}
