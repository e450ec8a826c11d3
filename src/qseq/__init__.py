"""qseq learns from logged experience with value functions over sequences."""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public name -> module. Imported when first asked for, so that `import qseq` needs none of the heavy libraries.
_LAZY = {
    "Agent": "qseq.evaluation",
    "BaseEnvironment": "qseq.evaluation",
    "Episode": "qseq.episodes",
    "EpisodeStore": "qseq.episodes",
    "EpisodeView": "qseq.episodes",
    "MaxViT": "qseq.networks.vision",
    "MockEnvironment": "qseq.evaluation",
    "Policy": "qseq.policies",
    "QLanguageModel": "qseq.language",
    "QLearner": "qseq.robot",
    "QRLHF": "qseq.language",
    "QRoboticTransformer": "qseq.robot",
    "ReplayMemoryDataset": "qseq.episodes",
    "StoreWriter": "qseq.episodes",
    "ValueGuidedRLPipeline": "qseq.planner",
    "collect": "qseq.evaluation",
    "evaluate": "qseq.evaluation",
    "get_algorithm": "qseq.registry",
    "load_policy": "qseq.registry",
    "push_to_hub": "qseq.export",
}

__all__ = ["__version__", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'qseq' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
