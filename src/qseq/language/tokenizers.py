"""Tokenizers: those of Hugging Face, or one of the characters or words of the data, for models that are built anew."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qseq.errors import RequestError

PAD, START, END, UNKNOWN = "<pad>", "<s>", "</s>", "<unk>"
PLAIN_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['content'] }}"
    "{{ eos_token if message['role'] == 'assistant' else '\\n' }}{% endfor %}"
)
"""Messages one after another: those of the environment end with a line break, the policy's with the end token."""
_PIECES = {"characters": r"[\s\S]", "words": r"\s|\w+|[^\w\s]"}


def build_tokenizer(kind: str, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are the characters of `texts`, or their words, signs and spaces; decoding is exact."""
    pattern = _PIECES[kind]
    pieces = sorted({"\n"} | {piece for text in texts for piece in re.findall(pattern, text)})
    special = [PAD, START, END, UNKNOWN]
    vocabulary = {piece: index for index, piece in enumerate([*special, *(p for p in pieces if p not in special)])}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{START} $A", special_tokens=[(START, vocabulary[START])]
    )
    make: Any = PreTrainedTokenizerFast
    built: PreTrainedTokenizerFast = make(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        bos_token=START,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        chat_template=PLAIN_TEMPLATE,
    )
    return built


def load_tokenizer(source: str) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder or of a Hub name. Raises RequestError if there is none."""
    try:
        return AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError, KeyError) as error:
        why = str(error).strip().splitlines()[0]
        raise RequestError(f"data.tokenizer: found no tokenizer at '{source}' ({why})") from error


def checked_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """`tokenizer`, padding with its end token if it has none of its own for that: padding never counts.

    Raises:
        RequestError: it has no end token, so nothing could end a text.
    """
    if tokenizer.eos_token_id is None:
        raise RequestError(
            "tokenizer: found no end token, expected one; set it with tokenizer.eos_token = ... and save the tokenizer"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer
