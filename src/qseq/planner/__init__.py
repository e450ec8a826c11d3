"""Planning by trajectory diffusion: plans are drawn from noise, judged by values, and followed."""

from qseq.planner.config import DiffuserConfig
from qseq.planner.normalisers import Normaliser
from qseq.planner.pipeline import ValueGuidedRLPipeline
from qseq.planner.planning import Planner, Plans
from qseq.planner.policy import DiffuserPolicy
from qseq.planner.spec import PlannerNetwork, PlannerSpec

__all__ = [
    "DiffuserConfig",
    "DiffuserPolicy",
    "Normaliser",
    "Planner",
    "PlannerNetwork",
    "PlannerSpec",
    "Plans",
    "ValueGuidedRLPipeline",
]
