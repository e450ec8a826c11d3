"""From rows and a configuration to what training needs: tokenizer, texts, the range of returns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from qseq.errors import ConfigError, DataError
from qseq.language.batch import TokenisedText, returns_of
from qseq.language.config import LanguageModelConfig, RepeatConfig, TextDataConfig, TextObjectiveConfig
from qseq.language.encoding import TextEncoder
from qseq.language.rows import Row, read_rows
from qseq.language.tokenizers import build_tokenizer, checked_tokenizer, load_tokenizer
from qseq.language.values import ReturnRange

BUILT = ("characters", "words")


def gather_rows(sources: Sequence[Any], config: TextDataConfig) -> list[Row]:
    """The rows of several sources. Raises DataError if there is none."""
    rows = [row for source in sources for row in read_rows(source)]
    if config.limit_rows:
        rows = rows[: config.limit_rows]
    if not rows:
        raise DataError(f"{', '.join(map(str, sources))}: found no rows, expected at least one")
    return rows


def choose_tokenizer(data: TextDataConfig, model: LanguageModelConfig, rows: Iterable[Row]) -> PreTrainedTokenizerBase:
    """The tokenizer that `data` names: loaded, or built from the texts of the rows.

    Raises:
        RequestError: there is none, or it has no end token.
        ConfigError: one built from the data beside a model that knows other tokens.
    """
    name = data.tokenizer or model.path or "characters"
    if name not in BUILT:
        return checked_tokenizer(load_tokenizer(name))
    if model.path:
        raise ConfigError(f'data.tokenizer: found "{name}", expected that of model.path: it knows other tokens')
    return build_tokenizer(name, _texts(rows))


def _texts(rows: Iterable[Row]) -> Iterable[str]:
    for row in rows:
        yield from (str(row[name]) for name in ("prompt", "completion") if row.get(name) is not None)
        for message in row.get("messages") or ():
            yield str(message["content"])


def encode_rows(rows: Sequence[Row], encoder: TextEncoder) -> list[TokenisedText]:
    """Every row as tokens. Raises DataError, which names the row, where one is not as it must be."""
    from qseq.progress import track

    return [encoder(row, number) for number, row in enumerate(track(rows, "reading texts", len(rows)))]


def context_length(model_config: Any, data: TextDataConfig) -> int:
    """The longest text in tokens: what the data ask for, within what the model reads.

    Raises:
        ConfigError: they ask for more than the model reads.
    """
    known = getattr(model_config, "max_position_embeddings", None)
    if data.max_length and known is not None and data.max_length > known:
        raise ConfigError(f"data.max_length: found {data.max_length}, expected at most {known}, what the model reads")
    return data.max_length or known or 2**31


def best_texts(texts: Sequence[TokenisedText], share: float) -> list[TokenisedText]:
    """The share of the texts with the greatest sums of rewards, at least one; of equal ones the first."""
    if share >= 1.0:
        return list(texts)
    count = max(1, math.ceil(share * len(texts)))
    order = np.argsort([-text.total for text in texts], kind="stable")[:count]
    return [texts[row] for row in np.sort(order)]


def repeated_texts(texts: Sequence[TokenisedText], repeat: RepeatConfig) -> list[TokenisedText]:
    """All texts, those with the greatest returns as often as `repeat` says."""
    again = best_texts(texts, repeat.share) if repeat.share else []
    return [*texts, *again * (repeat.times - 1)]


def range_of(texts: Sequence[TokenisedText], objective: TextObjectiveConfig) -> ReturnRange:
    """The range of returns: as the objective says, or as the data have it, with room above for better ones.

    Raises:
        ConfigError: returns in the data lie outside it.
    """
    floor = 0.0 if objective.minimum_return is None else objective.minimum_return
    achieved = [returns_of(text, objective.discount, objective.discount_per, floor).achieved for text in texts]
    least, greatest = (float(bound) for bound in (min(a.min() for a in achieved), max(a.max() for a in achieved)))
    spread = max(greatest - least, 1e-6 * max(1.0, abs(least)))
    low = least if objective.minimum_return is None else objective.minimum_return
    high = greatest + spread / 20 if objective.maximum_return is None else objective.maximum_return
    tolerance = 1e-4 * max(1.0, abs(least), abs(greatest))
    ended = [a for a, text in zip(achieved, texts, strict=True) if text.terminated]
    if objective.value != "unbounded" and ended:
        bottom, top = min(a.min() for a in ended), max(a.max() for a in ended)
        if bottom < low - tolerance or top > high + tolerance:
            raise ConfigError(
                f"objective.minimum_return, objective.maximum_return: found [{low:g}, {high:g}], but discounted "
                f"returns in the data span [{bottom:.6g}, {top:.6g}]: widen the range, or set objective.value=unbounded"
            )
    if low == high:
        high = low + 1.0
    return ReturnRange(low, high)


def fill_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """What fills up the shorter texts of a batch: no token ever looks at it.

    Not the padding token, at which some models of transformers warn when they are given no mask.
    """
    return 1 if tokenizer.pad_token_id == 0 else 0


def tokenizer_files(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write the tokenizer beside a model."""
    tokenizer.save_pretrained(folder)
