"""Errors a user can act on. The command line maps them to exit statuses."""

from __future__ import annotations

from pathlib import Path


class QseqError(Exception):
    """The work was tried and failed (exit status 1)."""


class RequestError(QseqError):
    """The request was wrong; nothing was changed on disk (exit status 2).

    The message is one line that names what is wrong, where, what was found and what was expected.
    """


class DataError(RequestError):
    """A data set, store or checkpoint is not as it must be."""


class ConfigError(RequestError):
    """A configuration value or key is not valid."""


class NonFiniteLossError(QseqError):
    """Training met a loss that is NaN or infinite and stopped."""

    def __init__(self, step: int, term: str, value: float, last_checkpoint: Path | None) -> None:
        self.step = step
        self.term = term
        self.value = value
        self.last_checkpoint = last_checkpoint
        where = str(last_checkpoint) if last_checkpoint else "none was written yet"
        super().__init__(
            f"training stopped at step {step}: loss term '{term}' is {value}; last good checkpoint: {where}; "
            "lower training.learning_rate or training.max_grad_norm, or check the data with 'qseq inspect'"
        )
