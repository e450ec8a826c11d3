"""Use a policy in an environment: measure it, film it, collect episodes with it."""

from qseq.evaluation.actors import Actor, PolicyActor, RandomActor, ScriptedActor, make_actor
from qseq.evaluation.collect import CollectionSummary, collect, collect_recipe
from qseq.evaluation.evaluate import evaluate
from qseq.evaluation.intervals import bootstrap_interval, wilson_interval
from qseq.evaluation.result import EvaluationResult

__all__ = [
    "Actor",
    "CollectionSummary",
    "EvaluationResult",
    "PolicyActor",
    "RandomActor",
    "ScriptedActor",
    "bootstrap_interval",
    "collect",
    "collect_recipe",
    "evaluate",
    "make_actor",
    "wilson_interval",
]
