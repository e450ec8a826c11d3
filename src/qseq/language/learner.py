"""`QRLHF`: Q-learning of a language model you have, on texts you have, in one call."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedTokenizerBase

from qseq.configuration import checked
from qseq.errors import RequestError
from qseq.language.algorithm import prepare
from qseq.language.config import (
    GuidanceConfig,
    LanguageModelConfig,
    QRLHFConfig,
    TextDataConfig,
    TextObjectiveConfig,
)
from qseq.language.model import QLanguageModel
from qseq.language.policy import LanguagePolicy
from qseq.language.preparation import gather_rows
from qseq.language.tokenizers import checked_tokenizer
from qseq.training import make_accelerator
from qseq.training.keywords import (
    ACCELERATOR,
    AVERAGE,
    checked_keywords,
    of_the_accelerator,
    train_in,
    training_config,
)


class QRLHF:
    """Trains a language model with values on texts with rewards; calling it trains.

    Args:
        model: a `QLanguageModel`, any causal language model of transformers (heads are put on it), or the name or path
            of one.
        dataset: a `datasets.Dataset`, rows (mappings), or a file of them; see docs/language.md for the columns.
        accelerate_kwargs: `cpu`, `mixed_precision` ("no", "bf16"), `kwargs_handlers`, `log_with`.
        ema_kwargs: of the target network: `beta` (share of the old one kept), `update_after_step`, `update_every`.
        tokenizer: the model's; needed with a model that is no name, unless rows hold `input_ids`.
        objective, heads, data, guidance: what is learnt, on which heads, from which part of the data, and how values
            steer the policy; `objective` must say the values of a `QLanguageModel`.
        checkpoint_folder: the run folder; a temporary one if not given.
        training_kwargs: further fields of `TrainingConfig`.

    Raises:
        RequestError: an argument or key is not valid.
        DataError: a row is not as it must be; names it.
    """

    def __init__(
        self,
        model: nn.Module | str,
        dataset: Any,
        accelerate_kwargs: Mapping[str, Any] | None = None,
        ema_kwargs: Mapping[str, Any] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
        batch_size: int = 32,
        num_train_steps: int = 3000,
        learning_rate: float = 3e-4,
        grad_accum_every: int = 1,
        max_grad_norm: float = 1.0,
        weight_decay: float = 0.0,
        objective: TextObjectiveConfig | None = None,
        heads: LanguageModelConfig | None = None,
        data: TextDataConfig | None = None,
        guidance: GuidanceConfig | None = None,
        checkpoint_folder: str | Path | None = None,
        checkpoint_every: int = 1000,
        seed: int = 0,
        training_kwargs: Mapping[str, Any] | None = None,
    ) -> None:
        accelerate = checked_keywords("accelerate_kwargs", accelerate_kwargs, ACCELERATOR)
        heads = heads or LanguageModelConfig()
        if isinstance(model, str):
            heads = replace(heads, path=model)
        elif tokenizer is None:
            raise RequestError("tokenizer: found none beside a model, expected the model's")
        config = QRLHFConfig(
            data=data or TextDataConfig(),
            model=heads,
            objective=objective or TextObjectiveConfig(),
            guidance=guidance or GuidanceConfig(),
            training=training_config(
                {
                    "batch_size": batch_size,
                    "steps": num_train_steps,
                    "learning_rate": learning_rate,
                    "grad_accum_every": grad_accum_every,
                    "max_grad_norm": max_grad_norm,
                    "weight_decay": weight_decay,
                    "checkpoint_every": checkpoint_every,
                },
                average=checked_keywords("ema_kwargs", ema_kwargs, AVERAGE),
                accelerate=accelerate,
                further=training_kwargs,
            ),
        )
        self.run = Path(checkpoint_folder or tempfile.mkdtemp(prefix="qseq-"))
        self._temporary = checkpoint_folder is None
        self._prepared = prepare(
            checked(config),
            gather_rows([dataset], config.data),
            run=self.run,
            seed=seed,
            model=None if isinstance(model, str) else model,
            tokenizer=None if tokenizer is None else checked_tokenizer(tokenizer),
            accelerator=make_accelerator(**of_the_accelerator(accelerate)),
        )
        self.trainer = self._prepared.trainer

    def __call__(self, resume: bool = False) -> Path | None:
        """Train; returns the final checkpoint (None without `checkpoint_folder`)."""
        return train_in(self.run, self.trainer, temporary=self._temporary, resume=resume)

    @property
    def model(self) -> QLanguageModel:
        """The language model with its heads."""
        return self._prepared.model

    @property
    def policy(self) -> LanguagePolicy:
        """The policy of the model as it is now."""
        encoder = self._prepared.encoder
        return LanguagePolicy(self.model, encoder.tokenizer, end=encoder.end, max_length=encoder.max_length)
