"""Everything a planner's run can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from qseq.configuration import Fraction, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from qseq.planner.normalisers import NormaliserKind
from qseq.policies.data import RelabelConfig
from qseq.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PlanDataConfig:
    """What of the data is planned, and where goals are."""

    state_field: str = ""
    """Observation field that plans are made of; empty takes the only one, or "observation" or "state"."""
    goal_field: str = ""
    """Observation field that says which goal to reach; empty: there is none, plans are made for return."""
    goal_dimensions: tuple[NonNegativeInt, ...] = (0, 1)
    """Entries of the state that a goal names."""
    goal_radius: NonNegativeFloat = 0.45
    """A goal is reached within this distance of it, in the data's units."""
    state_normaliser: NormaliserKind = "gaussian"
    """How states are brought to a common scale."""
    action_normaliser: NormaliserKind = "limits"
    """How actions are brought to a common scale."""
    successes_only: bool = False
    """Train on successful episodes only."""
    success_share: Fraction = 0.0
    """Show successful episodes more often, so that at least this share of the steps is theirs; 0 shows all alike."""
    relabel: RelabelConfig = field(default_factory=RelabelConfig)
    """Other labels than the data's; `success_return` says what a success is where only rewards are known."""
    verify: bool = True
    """Check every value of the data (finite, within bounds) before training."""
    limit_episodes: NonNegativeInt = 0
    """Read only the first so many episodes; 0 reads all."""


@dataclass(frozen=True, kw_only=True)
class TrajectoryConfig:
    """What one plan is."""

    horizon: PositiveInt = 16
    """Planned states, the present one included."""
    stride: PositiveInt = 10
    """Environment steps from one planned state to the next."""
    contents: Literal["states", "states-actions"] = "states"
    """What is planned: states, with actions from an inverse-dynamics model (Decision Diffuser), or both (Diffuser)."""


@dataclass(frozen=True, kw_only=True)
class DenoiserConfig:
    """The network that takes noise off plans."""

    kind: Literal["transformer", "unet"] = "transformer"
    """A small diffusion transformer, or the U-Net of diffusers (`UNet1DModel`)."""
    dim: PositiveInt = 96
    """Width of the transformer; the U-Net's channels are 1, 2 and 4 times a third of it, in multiples of 8."""
    depth: PositiveInt = 3
    """Blocks of the transformer, or resolutions of the U-Net."""
    heads: PositiveInt = 4
    """Attention heads of the transformer."""
    frequencies: NonNegativeInt = 4
    """Sines and cosines of every entry of a plan that the transformer sees beside it; walls are sharp."""


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """How noise is added in training."""

    noise_steps: PositiveInt = 100
    """Levels of noise."""
    noise_schedule: Literal["squaredcos_cap_v2", "linear", "scaled_linear"] = "squaredcos_cap_v2"
    """How the noise grows with the level, by diffusers' names."""
    prediction: Literal["sample", "epsilon"] = "sample"
    """What the network predicts: the clean plan, or the noise."""
    first_action_weight: PositiveFloat = 10.0
    """Weight of the first action in the loss of a joint plan, as it is the one that is taken."""
    goal_known: Fraction = 0.3
    """Share of the training plans of which a later place is known, as where a goal is set; the first state always is.

    Without `data.goal_field` there is none."""


@dataclass(frozen=True, kw_only=True)
class ValueConfig:
    """What plans are judged by."""

    discount: Fraction = 0.99
    """Gamma, for one environment step."""
    target: Literal["bootstrap", "monte-carlo"] = "bootstrap"
    """What the endpoint value is fitted to: the library's backup, which stitches, or the returns that were seen."""
    expectile: Fraction = 0.9
    """Of the endpoint value over what followed a state in the data: 0.5 is the mean, nearer to 1 nearer to the best."""
    dim: PositiveInt = 256
    """Width of the networks of the endpoint value and of inverse dynamics."""
    frequencies: NonNegativeInt = 4
    """Sines and cosines of every input that these networks see beside it; walls are sharp."""
    future_goals: Fraction = 0.6
    """Share of the goals that are taken from what follows in the episode (hindsight); the others from anywhere."""
    moves: PositiveInt = 5
    """Moves of each window that endpoint value and inverse dynamics learn from in one step, drawn anew each time."""
    guide: bool = False
    """Learn a return of noisy plans, for guidance."""
    critic: bool = False
    """Learn a return of clean plans, for selection; always on where there is no goal."""
    support: bool = True
    """Learn where the data have been (in the entries that goals name), for selection; only where there are goals."""
    plan_dim: PositiveInt = 64
    """Width of the networks of guide and critic."""


@dataclass(frozen=True, kw_only=True)
class PlanningConfig:
    """How a plan is made; also options of the policy, under these names."""

    candidates: PositiveInt = 32
    """Plans drawn, of which the best is taken."""
    steps: PositiveInt = 5
    """Denoising steps."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """Deterministic given the first noise, or with fresh noise at each step."""
    select: bool = True
    """Take the candidate whose final value is highest; else the first."""
    selection: Literal["endpoint", "critic"] = "endpoint"
    """What values the final plans: reward within the plan and the endpoint's value, or the critic of clean plans."""
    support_cost: NonNegativeFloat = 10.0
    """Environment steps by which a plan counts as longer for each unit of log odds that its least likely place lacks to
    be one of the data's (`value.support`); 0 asks nothing of places."""
    guidance_scale: NonNegativeFloat = 0.0
    """How far the guide's gradient, times the posterior variance, pushes every step; 0 does not guide."""
    guidance_steps: NonNegativeInt = 2
    """Pushes before each denoising step."""
    unguided_steps: NonNegativeInt = 2
    """The last so many denoising steps are not guided."""
    reach_goal: bool = False
    """Set the plan's last state to the goal (inpainting), with fewer planned states as the goal comes nearer."""
    replan_every: PositiveInt = 20
    """Environment steps that a plan is followed."""
    warm_start: Fraction = 0.0
    """Begin from the last plan, shifted, with so much of the noise; 0 begins from pure noise."""
    temperature: NonNegativeFloat = 1.0
    """Scale of the first noise; less gives plans that are more alike."""


def _default_training() -> TrainingConfig:
    return TrainingConfig(
        steps=10_000, batch_size=64, learning_rate=1e-3, schedule="cosine", weight_decay=1e-4, target_rate=0.005
    )


@dataclass(frozen=True, kw_only=True)
class DiffuserConfig:
    """A planner: trajectory diffusion, values and how both are used."""

    data: PlanDataConfig = field(default_factory=PlanDataConfig)
    trajectory: TrajectoryConfig = field(default_factory=TrajectoryConfig)
    denoiser: DenoiserConfig = field(default_factory=DenoiserConfig)
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    value: ValueConfig = field(default_factory=ValueConfig)
    planning: PlanningConfig = field(default_factory=PlanningConfig)
    training: TrainingConfig = field(default_factory=_default_training)
