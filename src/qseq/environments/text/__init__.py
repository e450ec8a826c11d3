"""Text environments: the interface, the tasks of the benchmarks with players of mixed skill, and small tokenizers."""

from qseq.environments.text.base import FiniteStarts, Message, Player, TextEnvironment, TextStep
from qseq.environments.text.tasks import PlayerShare, TextTask, find_task, make_text_environment
from qseq.environments.text.tokenizers import make_tokenizer

__all__ = [
    "FiniteStarts",
    "Message",
    "Player",
    "PlayerShare",
    "TextEnvironment",
    "TextStep",
    "TextTask",
    "find_task",
    "make_text_environment",
    "make_tokenizer",
]
