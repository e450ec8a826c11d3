"""Frozen text encoders of Hugging Face: instructions -> embeddings of their words, computed once.

Legend: I instructions, W words (of the encoder: pieces), E width of the encoder.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from qseq.errors import DataError, RequestError
from qseq.files import sha256, write_atomic
from qseq.networks.text import FROZEN, TextConfig, word_ids

_MANY_TOKENS = 1_000_000  # what tokenizers without a limit call their limit
_BATCH = 64
_REMEMBERED = 1024  # texts: what acting policies are told may be new every time


class FrozenTextEncoder:
    """T5, CLIP, BERT and their like: the last hidden state of each piece of a text.

    It is no part of the network: its weights are neither trained nor saved with a policy, and stay on the CPU.

    Args:
        name: a folder or a repository of the Hub. revision: its version.

    Raises:
        RequestError: transformers is not installed, or the encoder is not to be had.
    """

    def __init__(self, name: str, revision: str) -> None:
        transformers = _transformers(name)
        # The version of a folder is a checksum, which the library must not look for.
        version = {} if Path(name).is_dir() else {"revision": revision or None}
        with _found(name):
            self.tokenizer = transformers.AutoTokenizer.from_pretrained(name, **version)
            model = transformers.AutoModel.from_pretrained(name, **version)
        if model.config.is_encoder_decoder:
            model = model.get_encoder()
        # Of a model of images and text the half that reads.
        self.model = getattr(model, "text_model", model).eval().requires_grad_(False)
        self.name = name
        longest = getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or _MANY_TOKENS
        self.max_tokens = min(self.tokenizer.model_max_length, longest)
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token

    @torch.no_grad()
    def embed(self, texts: Sequence[str]) -> list[Tensor]:
        """Each text's embeddings `[W, E]`, float32.

        Raises:
            RequestError: a text has more pieces than the encoder takes.
        """
        embedded: list[Tensor] = []
        for start in range(0, len(texts), _BATCH):
            some = list(texts[start : start + _BATCH])
            pieces = self.tokenizer(some, padding=True, return_tensors="pt")
            mask_IW = pieces["attention_mask"].bool()
            for text, present_W in zip(some, mask_IW, strict=True):
                if int(present_W.sum()) > self.max_tokens:
                    raise RequestError(
                        f"instruction '{text[:40]}...': found {int(present_W.sum())} tokens, expected at most the "
                        f"{self.max_tokens} that the text encoder {self.name} takes; shorten it"
                    )
            hidden_IWE = self.model(input_ids=pieces["input_ids"], attention_mask=mask_IW.long()).last_hidden_state
            embedded += [row[present].float() for row, present in zip(hidden_IWE, mask_IW, strict=True)]
        return embedded


@lru_cache(maxsize=2)
def frozen_encoder(name: str, revision: str) -> FrozenTextEncoder:
    """The encoder, kept in memory for whoever asks next."""
    return FrozenTextEncoder(name, revision)


class TextInputs:
    """Texts -> what an `InstructionEncoder` reads of them.

    Embeddings of a frozen encoder are computed once for each distinct text and remembered; with a folder also on disk,
    one file a text, so that another run does not need the encoder. A folder that cannot be written is only read.

    Args:
        config: resolved, see `resolve_text`.
        folder: beside the data; None remembers in memory only.
    """

    def __init__(self, config: TextConfig, folder: Path | None = None) -> None:
        self.config = config
        name = config.encoder.removeprefix(FROZEN)
        key = hashlib.sha256(f"{name}@{config.revision}".encode()).hexdigest()[:16]
        self._folder = None if folder is None else folder / key
        self._known: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Int64 `[I, W]` or float32 `[I, W, E]`; W is 1 where nothing attends to words, whose mean is enough then.

        Raises:
            RequestError: the encoder is not to be had, or a text too long for it.
            DataError: a damaged file of embeddings.
        """
        if not self.config.encoder.startswith(FROZEN):
            return word_ids(texts, vocabulary=self.config.vocabulary)
        self._learn(dict.fromkeys(text for text in texts if text.strip()))
        nothing = torch.zeros(1, self.config.embed_dim)
        embedded = [self._known.get(text, nothing) for text in texts]
        while len(self._known) > max(_REMEMBERED, len(texts)):
            del self._known[next(iter(self._known))]
        return pad_sequence(embedded, batch_first=True)

    def _learn(self, texts: Mapping[str, None]) -> None:
        unknown = [text for text in texts if text not in self._known]
        for text in unknown:
            stored = self._read(text)
            if stored is not None:
                self._remember(text, stored)
        unknown = [text for text in unknown if text not in self._known]
        if not unknown:
            return
        encoder = frozen_encoder(self.config.encoder.removeprefix(FROZEN), self.config.revision)
        for text, words_WE in zip(unknown, encoder.embed(unknown), strict=True):
            self._remember(text, words_WE)
            self._write(text, words_WE)

    def _remember(self, text: str, words_WE: Tensor) -> None:
        self._known[text] = words_WE if self.config.cross_attention else words_WE.mean(0, keepdim=True)

    def _path(self, text: str) -> Path | None:
        return (
            None if self._folder is None else self._folder / f"{hashlib.sha256(text.encode()).hexdigest()}.safetensors"
        )

    def _read(self, text: str) -> Tensor | None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self._path(text)
        if path is None or not path.is_file():
            return None
        try:
            words_WE = load_file(path)["words"]
        except (SafetensorError, KeyError, OSError) as error:
            raise DataError(f"{path}: cannot be read as embeddings of an instruction ({error}); delete it") from error
        if words_WE.ndim != 2 or words_WE.shape[1] != self.config.embed_dim:
            raise DataError(
                f"{path}: found embeddings of shape {list(words_WE.shape)}, expected [words, {self.config.embed_dim}]; "
                "delete it"
            )
        return words_WE

    def _write(self, text: str, words_WE: Tensor) -> None:
        from safetensors.torch import save

        path = self._path(text)
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, save({"words": words_WE.contiguous()}, metadata={"text": text[:200]}))
        except OSError:
            self._folder = None  # read-only data: remembered in memory all the same


def resolve_text(config: TextConfig) -> TextConfig:
    """The same with the encoder's width and exact version noted; nothing changes for words that are learnt.

    Raises:
        RequestError: transformers is not installed, the encoder is not found, or a folder is not what it was.
    """
    if not config.encoder.startswith(FROZEN):
        return config
    name = config.encoder.removeprefix(FROZEN)
    checksum = _checksum(Path(name)) if Path(name).is_dir() else ""
    if checksum and config.revision not in ("", checksum):
        raise RequestError(
            f"network.text.encoder: '{name}' has the checksum {checksum}, expected {config.revision} "
            "(network.text.revision): the folder is not what it was"
        )
    if config.embed_dim and config.revision:
        return config
    with _found(name):
        own = _transformers(name).AutoConfig.from_pretrained(
            name, **({} if Path(name).is_dir() else {"revision": config.revision or None})
        )
    text = own.get_text_config(encoder=True) if own.is_encoder_decoder else own.get_text_config()
    return replace(
        config,
        embed_dim=int(text.hidden_size),
        revision=checksum or str(getattr(own, "_commit_hash", "") or ""),
    )


def _checksum(folder: Path) -> str:
    """Changes when a file of an encoder's folder does."""
    lines = [f"{path.name} {sha256(path)}" for path in sorted(folder.iterdir()) if path.is_file()]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


@contextmanager
def _found(name: str) -> Iterator[None]:
    """Turns a library's "not found" into one line."""
    try:
        yield
    except (OSError, ValueError) as error:
        raise RequestError(
            f"network.text.encoder: '{name}' is neither a folder nor a repository of the Hub that can be fetched, "
            f"expected a text encoder ({' '.join(str(error).split())[:160]})"
        ) from error


def _transformers(name: str) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise RequestError(
            f"network.text.encoder: '{FROZEN}{name}' needs transformers, which is not installed: "
            "pip install 'qseq[text]'"
        ) from error
    return transformers
