"""What commands note down in a run folder, and check before they go on with one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qseq.errors import DataError, RequestError

IDENTITY = "run.json"


def write_identity(run: Path, *, algorithm: str, data: Sequence[str], seed: int, label: str | None) -> None:
    """Note what the run is, for reports and for going on with it; config.yaml holds settings only."""
    from qseq import __version__
    from qseq.files import write_atomic

    identity = {"algorithm": algorithm, "label": label, "data": list(data), "seed": seed, "qseq": __version__}
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


def check_resume(run: Path, *, algorithm: str, seed: int | None, data: Sequence[str]) -> None:
    """A resumed run keeps its algorithm and seed, and its data must still have the shapes it was built for.

    Raises:
        RequestError: the request names another algorithm or seed, or data that do not fit.
    """
    identity = read_identity(run)
    for flag, asked in (("algo", algorithm), ("seed", seed)):
        stored = identity.get({"algo": "algorithm"}.get(flag, flag))
        if stored is not None and asked is not None and asked != stored:
            raise RequestError(f"--{flag}: found {asked}, expected {stored} as in {run / IDENTITY}; a run keeps it")
    description = newest_description(run)
    if description is not None:
        for source in data:
            check_data(source, description, run)


def newest_description(run: Path) -> dict[str, Any] | None:
    """policy.json of the newest checkpoint, None before there is one."""
    from qseq.policies import locate_policy, read_description

    if not (run / "checkpoints" / "latest").is_file():
        return None
    return read_description(locate_policy(run))


def check_data(source: str, description: dict[str, Any], run: Path) -> None:
    """Raise RequestError if the data have other actions or observations than the policy of the run."""
    from qseq.episodes import open_source

    schema = open_source(source).schema
    if schema.action_space != description["action_space"]:
        raise RequestError(
            f"{source}: action space: found {schema.action_space}, expected {description['action_space']} as in {run}; "
            "give the data the run was started with"
        )
    for name, shape in description["fields"].items():
        found = list(schema.fields[name].shape) if name in schema.fields else "no such field"
        if found != list(shape):
            raise RequestError(f"{source}: field '{name}': found {found}, expected {list(shape)} as in {run}")
