"""Everything a Q-Transformer run can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from qseq.errors import ConfigError
from qseq.networks.action_network import NetworkConfig
from qseq.policies.preparation import ActionConfig, DataConfig, default_training
from qseq.robot.decoding import DecodingConfig
from qseq.robot.objective_config import QObjectiveConfig
from qseq.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class QTransformerConfig:
    """Q-Transformer on logged episodes. The defaults are those of the results in the README."""

    data: DataConfig = field(default_factory=DataConfig)
    actions: ActionConfig = field(default_factory=ActionConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    objective: QObjectiveConfig = field(default_factory=QObjectiveConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    training: TrainingConfig = field(default_factory=default_training)

    def __post_init__(self) -> None:
        if self.decoding.relative and self.objective.value == "unbounded":
            raise ConfigError(
                "decoding.relative: found true, expected false with objective.value=unbounded, whose values have no "
                "bounds to be shares of"
            )
