"""Use a policy in an environment: measure it, film it, collect episodes with it.

Names that need torch (`Agent`, `BaseEnvironment`, ...) are imported when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from qseq.evaluation.actors import Actor, PolicyActor, RandomActor, ScriptedActor, make_actor
from qseq.evaluation.collect import CollectionSummary, collect, collect_recipe
from qseq.evaluation.evaluate import evaluate
from qseq.evaluation.intervals import bootstrap_interval, wilson_interval
from qseq.evaluation.result import EvaluationResult
from qseq.evaluation.text import evaluate_text
from qseq.evaluation.text_actors import RecentTurns
from qseq.evaluation.text_data import collect_text, generate_rows, write_rows

if TYPE_CHECKING:
    from qseq.evaluation.agent import Agent
    from qseq.evaluation.base_environment import BaseEnvironment, MockEnvironment
    from qseq.evaluation.exploration import ExploringActor, LinearSchedule

_NEEDS_TORCH = {
    "Agent": "agent",
    "BaseEnvironment": "base_environment",
    "ExploringActor": "exploration",
    "LinearSchedule": "exploration",
    "MockEnvironment": "base_environment",
}

__all__ = [
    "Actor",
    "Agent",
    "BaseEnvironment",
    "CollectionSummary",
    "EvaluationResult",
    "ExploringActor",
    "LinearSchedule",
    "MockEnvironment",
    "PolicyActor",
    "RandomActor",
    "RecentTurns",
    "ScriptedActor",
    "bootstrap_interval",
    "collect",
    "collect_recipe",
    "collect_text",
    "evaluate",
    "evaluate_text",
    "generate_rows",
    "make_actor",
    "wilson_interval",
    "write_rows",
]


def __getattr__(name: str) -> Any:
    if name in _NEEDS_TORCH:
        return getattr(import_module(f"{__name__}.{_NEEDS_TORCH[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
