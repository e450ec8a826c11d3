"""A conversation as its chat template lays it out, and where in the text each message of the assistant stands."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from qseq.errors import DataError

_MARK = re.compile(r"\{%-?\s*generation\s*-?%\}")


def lay_out(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Mapping[str, str]], number: int, *, asks: bool
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and where in it each message of the assistant stands.

    A template that marks them with `{% generation %}` is rendered once, any other twice for each of them.

    Args:
        number: of the row, for messages.
        asks: up to where the assistant speaks next.

    Raises:
        DataError: the template refuses the messages, or does not tell them apart; names the row.
    """
    if _MARK.search(str(tokenizer.chat_template)):
        text, spans = _render(tokenizer, messages, number, asks=asks, marked=True)
        if len(spans) == sum(message["role"] == "assistant" for message in messages):
            return text, spans
    shown = after = ""
    spans = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        before, _ = _render(tokenizer, messages[:place], number, asks=True)
        if not before.startswith(shown):
            raise _not_told_apart(number, place)
        after, _ = _render(tokenizer, messages[: place + 1], number, asks=False)
        if not after.startswith(before):
            raise _not_told_apart(number, place)
        spans.append((len(before), len(after)))
        end = after.rfind(tokenizer.eos_token, len(before))
        shown = after if end < 0 else after[: end + len(tokenizer.eos_token)]
    is_last = bool(messages) and messages[-1]["role"] == "assistant" and not asks
    rest = after if is_last else _render(tokenizer, messages, number, asks=asks)[0]
    return rest if rest.startswith(shown) else shown, spans


def _render(
    tokenizer: PreTrainedTokenizerBase,
    messages: Sequence[Mapping[str, str]],
    number: int,
    *,
    asks: bool,
    marked: bool = False,
) -> tuple[str, list[tuple[int, int]]]:
    """The text of a conversation, and the spans that the template marks."""
    render: Any = render_jinja_template  # its types are narrower than what it takes
    try:
        texts, spans = render(
            conversations=[[dict(message) for message in messages]],
            chat_template=tokenizer.get_chat_template(),
            return_assistant_tokens_mask=marked,
            add_generation_prompt=asks,
            **tokenizer.special_tokens_map,
        )
    except Exception as error:  # templates raise what they like
        raise DataError(f"row {number}: messages: the chat template refuses them ({error})") from error
    return str(texts[0]), [(int(start), int(stop)) for start, stop in spans[0]] if marked else []


def _not_told_apart(number: int, place: int) -> DataError:
    return DataError(
        f"row {number}: messages[{place}]: the chat template does not lay out a conversation as the continuation of "
        "its beginning, so the assistant's tokens cannot be told apart; mark them in it with {% generation %}"
    )
