"""Trained policies outside of qseq: programs for other runtimes, and folders to share.

`OnnxPolicy` needs numpy and onnxruntime only; the rest is imported when asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qseq.export.onnx_policy import OnnxPolicy

_LAZY = {
    "export_policy": "qseq.export.exporting",
    "push_to_hub": "qseq.export.sharing",
    "write_shared": "qseq.export.sharing",
}

__all__ = ["OnnxPolicy", *_LAZY]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'qseq.export' has no attribute '{name}'")
