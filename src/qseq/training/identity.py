"""What a run is: algorithm, data, seed. Its config.yaml holds settings only."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import qseq
from qseq.errors import DataError
from qseq.files import write_atomic

IDENTITY = "run.json"


def write_identity(run: Path, *, algorithm: str, data: Sequence[str], seed: int, label: str | None) -> None:
    """Note what the run is, for reports and for going on with it; config.yaml holds settings only."""
    identity = {"algorithm": algorithm, "label": label, "data": list(data), "seed": seed, "qseq": qseq.__version__}
    write_atomic(run / IDENTITY, json.dumps(identity, indent=2) + "\n")


def read_identity(run: Path) -> dict[str, Any]:
    """What `write_identity` noted; empty if it could not (the run was killed)."""
    path = run / IDENTITY
    if not path.is_file():
        return {}
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path} is damaged: not valid JSON ({error}); delete it") from error
    if not isinstance(identity, dict):
        raise DataError(f"{path} is damaged: found a {type(identity).__name__}, expected a JSON object; delete it")
    return identity
