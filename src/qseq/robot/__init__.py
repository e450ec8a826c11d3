"""Q-Transformer: autoregressive Q-learning over the dimensions of robot actions."""

from qseq.robot.config import QTransformerConfig
from qseq.robot.learner import QLearner
from qseq.robot.model import QRoboticTransformer
from qseq.robot.objective import QObjective
from qseq.robot.objective_config import QObjectiveConfig
from qseq.robot.policy import QTransformerPolicy

__all__ = [
    "QLearner",
    "QObjective",
    "QObjectiveConfig",
    "QRoboticTransformer",
    "QTransformerConfig",
    "QTransformerPolicy",
]
