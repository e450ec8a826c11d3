"""One training loop for all families: optimiser, moving average, checkpoints, metrics."""

from qseq.training.checkpoint import latest_checkpoint, read_record
from qseq.training.config import TrainingConfig
from qseq.training.learner import make_accelerator
from qseq.training.objective import BatchSource, CountingObjective, Losses, Objective, StatefulObjective
from qseq.training.regenerative import Regenerative
from qseq.training.run_folder import RunConfig, check_new_run
from qseq.training.trainer import Trainer, TrainerState
from qseq.training.weights import load_tensors, load_weights, save_tensors, tensors_of

__all__ = [
    "BatchSource",
    "CountingObjective",
    "Losses",
    "Objective",
    "Regenerative",
    "RunConfig",
    "StatefulObjective",
    "Trainer",
    "TrainerState",
    "TrainingConfig",
    "check_new_run",
    "latest_checkpoint",
    "load_tensors",
    "load_weights",
    "make_accelerator",
    "read_record",
    "save_tensors",
    "tensors_of",
]
