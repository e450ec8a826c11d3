"""A run that trains on while it is served: its newer checkpoints take over."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from qseq.errors import QseqError, RequestError
from qseq.policies import Policy, locate_policy
from qseq.registry import load_policy
from qseq.training import read_record

log = logging.getLogger("qseq.serving")
Signature = tuple[str, tuple[tuple[int, int], ...]]


def load_checkpoint(source: str, options: dict[str, Any]) -> tuple[Policy, int | None]:
    """The policy, and the training step of its checkpoint, if it is one.

    Raises:
        RequestError: there is none, or it does not act on observations.
        DataError: its files are damaged.
    """
    folder = locate_policy(source)  # once: the run may go on to another checkpoint at any moment
    policy = load_policy(folder, **options)
    if not isinstance(policy, Policy):
        raise RequestError(
            f"{source}: found a policy of kind '{getattr(policy, 'kind', '')}', expected one that acts on observations"
        )
    step = read_record(folder).get("step") if (folder / "trainer.json").is_file() else None
    return policy, step


class CheckpointWatch:
    """Notices when a run folder names another checkpoint, or the files of the one it names change."""

    def __init__(self, source: str) -> None:
        self._run = Path(source)
        self._seen = self._signature()

    def changed(self) -> bool:
        """Whether it has since the last time this was asked."""
        before, self._seen = self._seen, self._signature()
        return self._seen is not None and self._seen != before

    def _signature(self) -> Signature | None:
        checkpoints = self._run / "checkpoints"
        try:
            name = (checkpoints / "latest").read_text(encoding="utf-8", errors="replace").strip()[:80]
            if not name:  # whoever copies a run here has opened the file and not yet written it
                return None
            files = sorted((checkpoints / name).iterdir())
            return name, tuple((about.st_mtime_ns, about.st_size) for about in (file.stat() for file in files))
        except (OSError, ValueError):
            return None


def newer_policy(source: str, options: dict[str, Any], old: Policy) -> tuple[Policy, int | None] | None:
    """The policy of a run's newest checkpoint; None, with a line in the log, where it cannot take over."""
    try:
        policy, step = load_checkpoint(source, options)
    except (QseqError, OSError) as error:
        log.error("newer checkpoint refused, the old one is served on: %s", " ".join(str(error).split()))
        return None
    for name in ("kind", "observation_fields", "action_space", "takes_instructions", "history", "horizon"):
        if (found := getattr(policy, name)) != (expected := getattr(old, name)):
            log.error(
                "newer checkpoint refused, the old one is served on: %s is %s, expected %s", name, found, expected
            )
            return None
    return policy, step
