"""The language family as algorithms the command line can train: all of them configurations of one objective."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedTokenizerBase

from qseq.errors import ConfigError, RequestError
from qseq.language.batches import TextBatches
from qseq.language.config import QRLHFConfig
from qseq.language.encoding import TextEncoder
from qseq.language.model import QLanguageModel
from qseq.language.objective import TextObjective
from qseq.language.policy import write_policy
from qseq.language.preparation import (
    best_texts,
    choose_tokenizer,
    context_length,
    encode_rows,
    fill_token,
    gather_rows,
    range_of,
    repeated_texts,
)
from qseq.language.rows import Row
from qseq.language.trunk import load_language_model
from qseq.language.values import ReturnRange
from qseq.training import Trainer


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs, put together."""

    trainer: Trainer
    model: QLanguageModel
    encoder: TextEncoder


def prepare(
    config: QRLHFConfig,
    rows: Sequence[Row],
    *,
    run: Path,
    seed: int,
    model: nn.Module | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    accelerator: Any = None,
) -> Prepared:
    """Texts, model, objective and trainer of a run.

    Args:
        model: a `QLanguageModel`, or a causal language model of transformers; by default the one config.model names.
        tokenizer: the model's; by default the one config.data names.

    Raises:
        DataError: a row is not as it must be; names it.
        ConfigError: returns outside the range, or options that do not go together.
        RequestError: there is no such model or tokenizer.
    """
    if config.objective.learns_values and config.model.train == "heads" and config.objective.cloning_weight:
        # The policy's logits are the trunk's: with a frozen trunk there is nothing of them to train.
        raise ConfigError(
            f"objective.cloning_weight: found {config.objective.cloning_weight}, expected 0 with model.train=heads"
        )
    torch.manual_seed(seed)
    tokenizer = tokenizer if tokenizer is not None else choose_tokenizer(config.data, config.model, rows)
    trunk = load_language_model(config.model, tokenizer) if model is None else model
    text_config = getattr(trunk.config, "text_config", None) or trunk.config
    encoder = TextEncoder(
        tokenizer,
        max_length=context_length(text_config, config.data),
        cut=config.data.too_long == "cut",
        turn_end=config.data.turn_end,
    )
    texts = best_texts(encode_rows(rows, encoder), config.data.best_share)
    texts = repeated_texts(texts, config.data.repeat)
    if isinstance(trunk, QLanguageModel):
        whole = trunk
    else:
        returns = range_of(texts, config.objective) if config.objective.learns_values else ReturnRange()
        whole = QLanguageModel.on(trunk, config.model, config.objective, returns=returns, guidance=config.guidance)
    if len(tokenizer) > whole.vocabulary:
        raise RequestError(
            f"tokenizer: found {len(tokenizer)} tokens, expected at most {whole.vocabulary}, which the model knows"
        )
    batches = TextBatches(
        texts,
        batch_size=config.training.batch_size,
        seed=seed,
        discount=config.objective.discount,
        per=config.objective.discount_per,
        minimum_return=whole.returns.low,
        pad_token=fill_token(tokenizer),
    )
    trainer = Trainer(
        TextObjective(config.objective),
        whole,
        batches,
        config.training,
        run=run,
        seed=seed,
        save_model=_saver(tokenizer, encoder),
        has_target=config.objective.learns_values and config.objective.bootstrap != "none",
        run_config=config,
        accelerator=accelerator,
    )
    return Prepared(trainer, whole, encoder)


def _saver(tokenizer: PreTrainedTokenizerBase, encoder: TextEncoder) -> Callable[[nn.Module, Path], None]:
    return partial(write_policy, tokenizer=tokenizer, end=encoder.end, max_length=encoder.max_length)


def train(config: QRLHFConfig, *, data: Sequence[str], run: Path, seed: int = 0, resume: bool = False) -> Path:
    """Train into the run folder; returns the final checkpoint."""
    rows = gather_rows(data, config.data)
    return prepare(config, rows, run=run, seed=seed).trainer.train(resume=resume)
