"""Rows of text to tokens: which of them the policy said, and what each was worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from qseq.errors import ConfigError, DataError, RequestError
from qseq.language.batch import TokenisedText
from qseq.language.conversations import lay_out
from qseq.language.rows import Row, form_of, require_reward


@dataclass(frozen=True)
class Piece:
    """A stretch of a text: tokens of the policy (one turn), or of anyone else."""

    tokens: list[int]
    by_policy: bool


class TextEncoder:
    """Turns rows into `TokenisedText`s.

    A prompt and a completion are one turn of the policy; `messages` have one for each message of the assistant, laid
    out by the tokenizer's chat template. A completion that ended by itself ends with `turn_end`, which is the policy's
    to say, too, and is added where it is not there yet.

    Args:
        tokenizer: with an end token.
        max_length: longest text in tokens.
        cut: shorten longer ones, which then count as truncated, rather than refuse them.
        turn_end: what ends a completion, one token; None is the tokenizer's end token.

    Raises:
        ConfigError: `turn_end` is no token of the tokenizer.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        cut: bool = False,
        turn_end: str | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self.cut = cut
        # Worlds of few texts say the same again and again.
        self._known = lru_cache(maxsize=2**12)(self._cut)
        self.end: list[int] = [tokenizer.eos_token_id] if turn_end is None else self._tokens(turn_end)
        if len(self.end) != 1 or (turn_end is not None and self.end[0] == tokenizer.unk_token_id):
            found = tokenizer.convert_ids_to_tokens(self.end)
            raise ConfigError(
                f"data.turn_end: found {turn_end!r}, which is {found}, expected one token the model knows"
            )

    def __call__(self, row: Row, number: int) -> TokenisedText:
        """The row as tokens.

        Args:
            number: of the row, for messages.

        Raises:
            DataError: a column is missing, or a value is not as it must be; names the row.
        """
        form = form_of(row, number)
        require_reward(row, number)
        terminated = self._ended(row, number)
        next_ids = self._next_tokens(row, terminated, number)
        # What goes on in another text is over in this one.
        over = terminated or next_ids is not None
        if "input_ids" in form:
            text = self._pretokenised(row, number, over)
        elif "messages" in form:
            text = self._joined(self._conversation(row["messages"], over, number), row, number, over)
        else:
            pieces = [
                Piece(self.prompt_tokens(_text(row, "prompt", number)), by_policy=False),
                self._completion(_text(row, "completion", number), over, number),
            ]
            text = self._joined(pieces, row, number, over)
        return self._fitted(replace(text, terminated=terminated, next_ids=next_ids), number)

    def prompt_tokens(self, prompt: str) -> list[int]:
        """The tokens of a prompt, with a start token where the tokenizer puts one.

        There is at least one, for the first token of the policy is said in some state.
        """
        tokens = list(self.tokenizer(prompt)["input_ids"])
        if tokens[-1:] == [self.tokenizer.eos_token_id] and not prompt.endswith(self.tokenizer.eos_token):
            tokens = tokens[:-1]  # some tokenizers end every text, but this one goes on
        return tokens or [self.tokenizer.eos_token_id]

    def conversation_tokens(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """The tokens of a conversation, up to where the policy speaks next; cut as in training, turn by turn."""
        if not self.tokenizer.chat_template:
            raise RequestError(
                "messages: the tokenizer has no chat template, expected one; set tokenizer.chat_template"
            )
        return [token for piece in self._laid_out(messages, 0, asks=True) for token in piece.tokens]

    # --- text ----------------------------------------------------------------------------------------------------

    def _tokens(self, text: str) -> list[int]:
        return list(self._known(text))

    def _cut(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _completion(self, text: str, over: bool, number: int) -> Piece:
        tokens = self._tokens(text)
        if not tokens:
            raise DataError(f"row {number}: completion: found no tokens, expected at least one")
        if over and tokens[-len(self.end) :] != self.end:
            tokens = tokens + self.end
        return Piece(tokens, by_policy=True)

    def _next_tokens(self, row: Row, terminated: bool, number: int) -> NDArray[np.int64] | None:
        """The text in whose end the policy speaks next, where the row names one."""
        name = next((name for name in ("next_prompt", "next_messages") if row.get(name) is not None), None)
        if name is None:
            return None
        if terminated:
            raise DataError(f"row {number}: {name}: found it beside a text that ended, expected truncated: true")
        if name == "next_prompt":
            tokens = self.prompt_tokens(_text(row, name, number))
        else:
            self._check_messages(row[name], name, number)
            tokens = [token for piece in self._laid_out(row[name], number, asks=True) for token in piece.tokens]
        if not 0 < len(tokens) <= self.max_length:
            raise DataError(f"row {number}: {name}: found {len(tokens)} tokens, expected 1 to {self.max_length}")
        return np.array(tokens)

    def _check_messages(self, messages: Any, name: str, number: int) -> None:
        for place, message in enumerate(messages):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise DataError(f"row {number}: {name}[{place}]: found {message!r}, expected a role and a content")
        if not self.tokenizer.chat_template:
            raise DataError(
                f"row {number}: {name}: the tokenizer has no chat template, expected one to lay them out; "
                "set tokenizer.chat_template and save the tokenizer"
            )

    def _conversation(self, messages: Any, over: bool, number: int) -> list[Piece]:
        self._check_messages(messages, "messages", number)
        for place, message in enumerate(messages):
            if message["role"] == "assistant" and not str(message["content"]):
                raise DataError(f"row {number}: messages[{place}]: found an empty message of the assistant")
        if not any(message["role"] == "assistant" for message in messages):
            raise DataError(f"row {number}: messages: found none of the assistant, expected at least one")
        # The state to go on from is one in which the policy speaks: after someone else's message, or within its own.
        speaks_last = messages[-1]["role"] == "assistant"
        return self._laid_out(messages, number, asks=not over and not speaks_last, unfinished=not over and speaks_last)

    def _laid_out(
        self, messages: Sequence[Mapping[str, str]], number: int, *, asks: bool, unfinished: bool = False
    ) -> list[Piece]:
        """A conversation as the chat template has it.

        Args:
            asks: up to where the policy speaks next.
            unfinished: the last message, the policy's, was cut off: what the template ends it with was not said.
        """
        text, spans = lay_out(self.tokenizer, messages, number, asks=asks)
        pieces: list[Piece] = []
        shown = 0
        for place, (start, stop) in enumerate(spans):
            # What templates put after the end token, such as a line break, nobody says.
            end = text.rfind(self.tokenizer.eos_token, start, stop)
            if end >= 0:
                stop = end if unfinished and place == len(spans) - 1 else end + len(self.tokenizer.eos_token)
            pieces += [
                Piece(self._tokens(text[shown:start]), by_policy=False),
                Piece(self._tokens(text[start:stop]), by_policy=True),
            ]
            shown = stop
        if shown < len(text) and not unfinished:
            pieces.append(Piece(self._tokens(text[shown:]), by_policy=False))
        return pieces

    # --- tokens --------------------------------------------------------------------------------------------------

    def _joined(self, pieces: Sequence[Piece], row: Row, number: int, over: bool) -> TokenisedText:
        tokens: list[int] = []
        actions: list[int] = []
        ends: list[bool] = []
        for piece in pieces:
            if piece.by_policy:
                actions += range(len(tokens), len(tokens) + len(piece.tokens))
                ends += [False] * (len(piece.tokens) - 1) + [True]
            tokens += piece.tokens
        if actions and actions[0] == 0:
            tokens, actions = [self.tokenizer.eos_token_id, *tokens], [place + 1 for place in actions]
        turn_ends = np.array(ends)
        rewards = _placed(row, number, turn_ends, over, len(self.end))
        if not over and pieces[-1].by_policy:
            turn_ends[-1] = False
        return TokenisedText(np.array(tokens), np.array(actions), rewards, turn_ends, over)

    def _pretokenised(self, row: Row, number: int, over: bool) -> TokenisedText:
        tokens = np.asarray(row["input_ids"], dtype=np.int64)
        mask = np.asarray(row["action_mask"]).astype(bool)
        if mask.shape != tokens.shape:
            raise DataError(
                f"row {number}: action_mask: found {len(mask)} numbers, expected {len(tokens)} as input_ids"
            )
        most = len(self.tokenizer) - 1
        if len(tokens) and (tokens.min() < 0 or tokens.max() > most):
            raise DataError(f"row {number}: input_ids: found {tokens.min()} to {tokens.max()}, expected 0 to {most}")
        actions = np.flatnonzero(mask)
        if not len(actions):
            raise DataError(f"row {number}: action_mask: found no token of the policy, expected at least one")
        if actions[0] == 0:
            raise DataError(f"row {number}: action_mask: the first token is the policy's; expected a token before it")
        turn_ends = ~np.append(mask, False)[actions + 1]
        if row.get("rewards") is not None and len(row["rewards"]) == len(tokens):
            whole = _numbers(row["rewards"], number)
            if (stray := np.flatnonzero((whole != 0) & ~mask)).size:
                raise DataError(
                    f"row {number}: rewards: found {whole[stray[0]]:g} at token {stray[0]}, which is not the policy's; "
                    "expected rewards where action_mask is 1"
                )
            rewards = whole[actions]
        else:
            rewards = _placed(row, number, turn_ends, False, 0)
        if not over and mask[-1]:
            turn_ends[-1] = False
        return TokenisedText(tokens, actions, rewards, turn_ends, over)

    def _fitted(self, text: TokenisedText, number: int) -> TokenisedText:
        if len(text.input_ids) <= self.max_length:
            return text
        length = self.max_length
        kept = text.actions < length
        if kept.any() and length not in text.actions:
            # Others speak here. The value must go on from a state in which the policy does: that of its last token.
            length = text.actions[kept][-1]
            kept = text.actions < length
        if not self.cut or not kept.any():
            raise DataError(
                f"row {number}: found {len(text.input_ids)} tokens, expected at most {self.max_length}, the longest "
                "the model reads; data.too_long=cut shortens texts that the policy has begun by then"
            )
        return TokenisedText(
            text.input_ids[:length], text.actions[kept], text.rewards[kept], text.turn_ends[kept], terminated=False
        )

    @staticmethod
    def _ended(row: Row, number: int) -> bool:
        """Whether a text ended by itself: unless it says otherwise."""
        values: list[bool | None] = []
        for name in ("terminated", "truncated"):
            value = row.get(name)
            if value is not None and not isinstance(value, (bool, np.bool_)):
                raise DataError(f"row {number}: {name}: found {value!r}, expected true or false")
            values.append(None if value is None else bool(value))
        terminated, truncated = values
        if terminated and truncated:
            raise DataError(f"row {number}: found terminated and truncated, expected one of them: how did it end?")
        return not truncated if terminated is None else terminated


def _text(row: Row, name: str, number: int) -> str:
    if not isinstance(row[name], str):
        raise DataError(f"row {number}: {name}: found a {type(row[name]).__name__}, expected a text")
    return str(row[name])


def _numbers(values: Any, number: int) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=np.float32)
    except (TypeError, ValueError):
        raise DataError(f"row {number}: rewards: found {values!r}, expected numbers") from None
    if found.ndim != 1:
        raise DataError(f"row {number}: rewards: found {values!r}, expected a list of numbers")
    if (bad := np.flatnonzero(~np.isfinite(found))).size:
        raise DataError(f"row {number}: rewards[{bad[0]}]: found {found[bad[0]]}, expected a finite number")
    return found


def _placed(row: Row, number: int, turn_ends: np.ndarray, over: bool, end: int) -> np.ndarray:
    """Rewards `[A]` of the policy's tokens.

    One number is for the end; a list has one for each turn, or one for each token (with or without the end that was
    added to it).
    """
    rewards = np.zeros(len(turn_ends), np.float32)
    if row.get("rewards") is None:
        value = row["reward"]
        if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not math.isfinite(value):
            raise DataError(f"row {number}: reward: found {value!r}, expected a finite number")
        rewards[-1] = value
        return rewards
    values = _numbers(row["rewards"], number)
    turns, tokens = int(turn_ends.sum()), len(turn_ends)
    if len(values) == tokens:
        return values
    if len(values) == turns:
        rewards[turn_ends] = values
        return rewards
    if over and turns == 1 and len(values) == tokens - end:
        rewards[: len(values)] = values
        return rewards
    raise DataError(
        f"row {number}: rewards: found {len(values)} numbers, expected {turns} (one a turn) or {tokens} (one a "
        "token of the policy)"
    )
