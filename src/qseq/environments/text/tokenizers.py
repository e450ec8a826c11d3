"""Small tokenizers for the text tasks, so that small models learn them in minutes; nothing is downloaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

from qseq.environments.text.tasks import PREFIX, TASKS, make_text_environment
from qseq.errors import RequestError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, START, END, UNKNOWN, USER, ASSISTANT = "<pad>", "<bos>", "<eos>", "<unk>", "<user>", "<assistant>"
SPECIAL = (PAD, START, END, UNKNOWN, USER, ASSISTANT)

# The mark of the assistant's turn follows every message of the user, asked for or not: the state in which an action is
# chosen then looks the same where a game goes on and where it was cut off.
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    f"{{% else %}}{{{{ '{USER}' + message['content'] + '{ASSISTANT}' }}}}"
    "{% endif %}{% endfor %}"
)
"""A user's message, then the mark of the assistant's turn; what the assistant says, then the end token."""


def make_tokenizer(
    task: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    level: Literal["words", "characters"] | None = None,
) -> PreTrainedTokenizerFast:
    """A tokenizer that knows exactly what a text environment says and understands.

    It has padding, start and end tokens, and a chat template that marks the assistant's turns with
    `{% generation %}`. Words are cut at white space and joined by one space; what is unknown is "<unk>".

    Args:
        task: "text:maze" and so on, or "text:package.module:NAME" (whose `vocabulary` names its words).
        arguments: of the environment, which may change what it says.
        level: a token a word, or a character; None is what suits the task.

    Raises:
        RequestError: there is no such environment, it names no vocabulary, or the level is neither.
    """
    if level is None:
        known = TASKS.get(task.removeprefix(PREFIX))
        level = "words" if known is None else known.tokens
    if level not in ("words", "characters"):
        raise RequestError(f"tokenizer: level='{level}', expected words or characters")
    words = make_text_environment(task, arguments).vocabulary()
    try:
        from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast
    except ImportError as error:
        raise RequestError('transformers is not installed: pip install "qseq[language]"') from error
    pieces = sorted(set(words) if level == "words" else {" "}.union(*words))
    vocabulary = {piece: number for number, piece in enumerate([*SPECIAL, *pieces])}
    tokenizer: Any = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    if level == "words":
        tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
        tokenizer.decoder = decoders.Fuse()
    wrap: Any = PreTrainedTokenizerFast  # transformers is not typed
    return cast(
        "PreTrainedTokenizerFast",
        wrap(
            tokenizer_object=tokenizer,
            pad_token=PAD,
            bos_token=START,
            eos_token=END,
            unk_token=UNKNOWN,
            additional_special_tokens=[USER, ASSISTANT],
            chat_template=CHAT_TEMPLATE,
            clean_up_tokenization_spaces=False,
        ),
    )
