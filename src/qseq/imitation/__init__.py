"""Behaviour cloning, plain and filtered: the honest baselines on the same network, tokens and data."""

from qseq.imitation.config import CloningConfig, FilteredCloningConfig
from qseq.imitation.objective import CloningObjective
from qseq.imitation.policy import CloningPolicy

__all__ = ["CloningConfig", "CloningObjective", "CloningPolicy", "FilteredCloningConfig"]
