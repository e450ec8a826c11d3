"""Everything a behaviour-cloning run can be told."""

from __future__ import annotations

from dataclasses import dataclass, field

from qseq.networks.action_network import NetworkConfig
from qseq.policies.preparation import ActionConfig, DataConfig, default_training
from qseq.training import TrainingConfig


@dataclass(frozen=True, kw_only=True)
class CloningConfig:
    """Behaviour cloning on the same network, tokens and data as Q-Transformer."""

    data: DataConfig = field(default_factory=DataConfig)
    actions: ActionConfig = field(default_factory=ActionConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    training: TrainingConfig = field(default_factory=default_training)


@dataclass(frozen=True, kw_only=True)
class FilteredCloningConfig(CloningConfig):
    """Behaviour cloning of the successful episodes only."""

    data: DataConfig = field(default_factory=lambda: DataConfig(successes_only=True))
