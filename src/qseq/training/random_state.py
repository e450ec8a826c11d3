"""The random states of Python, numpy and torch as JSON, so that a resumed run draws the same numbers."""

from __future__ import annotations

import base64
import random
from typing import Any

import numpy as np
import torch


def random_state(device: torch.device) -> dict[str, Any]:
    """The global random states of this process."""
    version, internal, gauss = random.getstate()
    kind, words, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, _encode(np.array(internal, dtype=np.uint32)), gauss],
        "numpy": [kind, _encode(np.asarray(words, dtype=np.uint32)), position, has_gauss, cached],
        "torch": _encode(torch.get_rng_state().numpy()),
    }
    if device.type == "cuda":
        state["cuda"] = _encode(torch.cuda.get_rng_state(device).numpy())
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_state` gave."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(_decode(internal, np.uint32).tolist()), gauss))
    kind, words, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, _decode(words, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(torch.from_numpy(_decode(state["torch"], np.uint8)))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(torch.from_numpy(_decode(state["cuda"], np.uint8)), device)


def _encode(words: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(words.tobytes()).decode("ascii")


def _decode(text: str, kind: type[np.generic]) -> np.ndarray[Any, Any]:
    return np.frombuffer(base64.b64decode(text), dtype=kind).copy()
