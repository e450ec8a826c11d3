"""Everything a run of the language family can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from qseq.configuration import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from qseq.errors import ConfigError
from qseq.language.support import SupportConfig
from qseq.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters in the trunk, by peft; the trunk's own weights stay as they are."""

    rank: NonNegativeInt = 0
    """0 uses none."""
    alpha: PositiveFloat = 16.0
    target_modules: tuple[str, ...] = ()
    """Ends of the names of the layers that get one; empty leaves it to peft, which knows the usual models."""


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The trunk and the heads on it."""

    path: str = ""
    """A folder or a Hub name of any causal language model of transformers. Empty builds `architecture` anew."""
    architecture: str = "gpt2"
    """A model type of transformers, such as gpt2, llama or qwen2."""
    settings: dict[str, int | float | str | bool] = field(default_factory=dict)
    """Of the new model's configuration, by the names that transformers gives them, such as n_embd and n_layer."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the weights."""
    train: Literal["all", "heads"] = "all"
    """What of the trunk is trained, where there are no adapters: everything or nothing."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    gradient_checkpointing: bool = False
    """Recompute the trunk's activations on the way back, rather than keep them."""

    rows: Literal["linear", "tied"] = "linear"
    """The Q head has rows of its own, or reads those of the language model's head through a small learnt matrix."""
    dueling: bool = False
    twin_critics: bool = False
    """Two critics, each trained on its own prediction; the smaller value counts."""
    state_value: bool = False
    """A head for the value of the state. objective.bootstrap=expectile needs it and sets it."""
    average_trunk: bool = False
    """The target network has a moving average of the trunk, too: one more copy of what is trained of it and one more
    forward pass a step. Otherwise its heads read the online trunk."""


@dataclass(frozen=True, kw_only=True)
class TextObjectiveConfig:
    """What is learnt."""

    discount: Fraction = 0.998
    discount_per: Literal["turn", "token"] = "turn"
    """After a turn's last token only, or after every token. Per token it depends on how the text is cut into tokens."""
    bootstrap: Literal["max", "expectile", "sarsa", "none"] = "max"
    """What comes after a token is worth: "max", the best next token of the policy's own support; "expectile", a value
    of the state that is learnt from the data's tokens (ILQL, Snell et al. 2023); "sarsa", the next token of the data;
    "none", nothing: the return that was achieved is the target (Monte-Carlo regression)."""
    support: SupportConfig = field(default_factory=SupportConfig)
    """Of bootstrap="max"."""
    expectile: Fraction = 0.9
    """0.5 is the mean over the data's tokens; towards 1, the best of them."""
    monte_carlo_bound: bool = False
    """Targets are at least the return that was achieved from the token on. Biased upward where replies are chance."""
    carry: Literal["none", "turn", "text"] = "none"
    """With bootstrap="max": a token's target is at least that of the token after it, within a turn or along the whole
    text, so a reward crosses it in one step. Biased upward where replies are chance."""

    value: Literal["bounded", "unbounded", "categorical"] = "bounded"
    """Unbounded values are linear in the hidden state and can be merged into the language model's head."""
    value_loss: Literal["mse", "bce"] = "bce"
    """Of a bounded value."""
    value_atoms: PositiveInt = 51
    """Atoms of the categorical value (HL-Gauss)."""
    minimum_return: float | None = None
    """Least possible return: where the conservative term pulls tokens that the data lack. None is the least return in
    the data."""
    maximum_return: float | None = None
    """Greatest possible return. None is the greatest in the data, and a twentieth of the range more."""
    initial_value: Fraction = 0.1
    """Where values start, as a share of the range."""

    td_weight: NonNegativeFloat = 1.0
    conservative_weight: NonNegativeFloat = 0.1
    """Weight of the pull of tokens that were not taken towards the least return, a mean over the vocabulary. A token
    that the data take with probability p settles at `target * p / (p + weight / (V - 1))` above the floor, so small
    vocabularies want small weights."""
    conservative: Literal["floor", "softmax"] = "floor"
    """"softmax" is ILQL's: the cross-entropy of the values, taken for logits, with the data's tokens (CQL)."""
    conservative_samples: NonNegativeInt = 0
    """Estimate that mean from so many tokens of the vocabulary, drawn anew in each batch; 0 takes all of them. A few
    hundred make the term nearly free where the vocabulary is large."""
    cloning_weight: NonNegativeFloat = 1.0
    """Weight of the imitation of the data's tokens by the policy's logits."""
    cloning_temperature: PositiveFloat | None = None
    """Imitate the tokens whose turn came out better than their state's value more: each weighs `exp(advantage /
    temperature)`, at most 20, where the advantage is what the rest of the turn and the state after it came to, less
    that value, in units of return (AWR, Peng et al. 2019, equation 10, with CRR's bound, Wang et al. 2020). None
    imitates all alike. Where few tokens of the data are good, one of them says more to a policy, which prefers it to
    all others, than to values, which judge it alone. Where replies are chance, luck counts as merit."""
    observation_weight: NonNegativeFloat = 0.0
    """Weight of the prediction of everyone else's tokens (prompts, the environment's replies), a sum over them for each
    token of the policy. Where the state must be told from a long history, such as which words a hidden word can be,
    that is what teaches the trunk to keep it: replies depend on it at every turn, rewards hardly ever."""
    state_value_weight: NonNegativeFloat = 1.0
    """With bootstrap="expectile"."""

    @property
    def learns_values(self) -> bool:
        """Whether anything but the policy's logits is trained."""
        return self.td_weight > 0.0

    def __post_init__(self) -> None:
        if self.cloning_temperature is not None and (self.bootstrap == "none" or not self.learns_values):
            raise ConfigError(
                f"objective.cloning_temperature: found {self.cloning_temperature}, expected null with "
                f'objective.bootstrap="{self.bootstrap}", objective.td_weight={self.td_weight}: there is no value of '
                "states to compare with"
            )
        if self.carry != "none" and self.bootstrap != "max":
            raise ConfigError(
                f'objective.carry: found "{self.carry}", expected "none" with objective.bootstrap="{self.bootstrap}": '
                "what it bootstraps from is no maximum"
            )
        if self.conservative == "softmax" and self.conservative_samples:
            raise ConfigError(
                f"objective.conservative_samples: found {self.conservative_samples}, expected 0 with "
                'objective.conservative="softmax", which sums over the whole vocabulary'
            )

    def value_arguments(self) -> dict[str, Any]:
        """Arguments of `make_value_transform`, for values as shares of the range."""
        return {
            "kind": self.value,
            "low": 0.0,
            "high": 1.0,
            "loss": self.value_loss,
            "num_atoms": self.value_atoms,
        }


@dataclass(frozen=True, kw_only=True)
class RepeatConfig:
    """Rows with the greatest returns come more often: where few of them are good, and all together are much to read."""

    share: Fraction = 0.0
    """Of the rows, those of the greatest returns."""
    times: PositiveInt = 1
    """How often each of them comes where any other comes once."""

    def __post_init__(self) -> None:
        if (self.share > 0.0) != (self.times > 1):
            raise ConfigError(
                f"data.repeat: found share={self.share:g} with times={self.times}, expected a share above 0 and at "
                "least 2 times (or neither)"
            )


@dataclass(frozen=True, kw_only=True)
class TextDataConfig:
    """How rows become tokens."""

    tokenizer: str = ""
    """"characters" or "words" builds one from the data; else a folder or a Hub name. Empty is the model's own, or
    characters for a new model."""
    max_length: NonNegativeInt = 0
    """Longest text in tokens; 0 is the context length of the model."""
    too_long: Literal["refuse", "cut"] = "refuse"
    """What to do with a longer text: an error, or cut off its end, which then counts as truncated."""
    turn_end: str | None = None
    """Text that ends a completion; it is the policy's to say, and added where it is missing. None is the tokenizer's
    end token. Messages end as the chat template says."""
    best_share: Fraction = 1.0
    """Train on this share of the rows only, those of the greatest returns."""
    repeat: RepeatConfig = field(default_factory=RepeatConfig)
    limit_rows: NonNegativeInt = 0
    """Read only the first so many rows; 0 reads all."""


@dataclass(frozen=True, kw_only=True)
class GuidanceConfig:
    """How values steer the policy: `logits + beta * (Q - V)` within its own support."""

    beta: NonNegativeFloat = 1.0
    """Per unit of return. 0 is the policy alone, without a support; infinity (.inf) takes the greatest Q."""
    support: SupportConfig = field(default_factory=SupportConfig)


@dataclass(frozen=True, kw_only=True)
class QRLHFConfig:
    """Q-learning of a language model."""

    data: TextDataConfig = field(default_factory=TextDataConfig)
    model: LanguageModelConfig = field(default_factory=LanguageModelConfig)
    objective: TextObjectiveConfig = field(default_factory=TextObjectiveConfig)
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    training: TrainingConfig = field(default_factory=lambda: TrainingConfig(batch_size=32))


@dataclass(frozen=True, kw_only=True)
class ILQLConfig(QRLHFConfig):
    """Implicit language Q-learning (Snell et al. 2023): in-sample expectile, two critics, the softmax regulariser."""

    model: LanguageModelConfig = field(
        default_factory=lambda: LanguageModelConfig(twin_critics=True, state_value=True, average_trunk=True)
    )
    objective: TextObjectiveConfig = field(
        default_factory=lambda: TextObjectiveConfig(
            bootstrap="expectile", value="unbounded", conservative="softmax", conservative_weight=0.01
        )
    )


@dataclass(frozen=True, kw_only=True)
class MonteCarloConfig(QRLHFConfig):
    """Regression on the returns that were achieved; otherwise as `QRLHFConfig`."""

    objective: TextObjectiveConfig = field(default_factory=lambda: TextObjectiveConfig(bootstrap="none"))


def _cloning() -> TextObjectiveConfig:
    return TextObjectiveConfig(bootstrap="none", td_weight=0.0, conservative_weight=0.0)


@dataclass(frozen=True, kw_only=True)
class LanguageCloningConfig(QRLHFConfig):
    """Imitation of all rows."""

    objective: TextObjectiveConfig = field(default_factory=_cloning)
    guidance: GuidanceConfig = field(default_factory=lambda: GuidanceConfig(beta=0.0))


@dataclass(frozen=True, kw_only=True)
class FilteredLanguageCloningConfig(LanguageCloningConfig):
    """Imitation of the tenth of the rows with the greatest returns (`data.best_share`)."""

    data: TextDataConfig = field(default_factory=lambda: TextDataConfig(best_share=0.1))
