"""What commands check before they go on with a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qseq.errors import RequestError


def check_resume(run: Path, *, algorithm: str, seed: int | None, data: Sequence[str]) -> None:
    """A resumed run keeps its algorithm and seed, and its data must still have the shapes it was built for.

    Raises:
        RequestError: the request names another algorithm or seed, or data that do not fit.
    """
    from qseq.training.identity import IDENTITY, read_identity

    identity = read_identity(run)
    for flag, asked in (("algo", algorithm), ("seed", seed)):
        stored = identity.get({"algo": "algorithm"}.get(flag, flag))
        if stored is not None and asked is not None and asked != stored:
            raise RequestError(f"--{flag}: found {asked}, expected {stored} as in {run / IDENTITY}; a run keeps it")
    description = newest_description(run)
    if description is not None and "action_space" in description:  # texts have none, nor a store to look into
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
    for name, shape in description.get("fields", {}).items():
        found = list(schema.fields[name].shape) if name in schema.fields else "no such field"
        if found != list(shape):
            raise RequestError(f"{source}: field '{name}': found {found}, expected {list(shape)} as in {run}")
