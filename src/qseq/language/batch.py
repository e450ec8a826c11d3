"""What a text is to learning: tokens, which of them the policy said, and what followed each of those.

Legend: B batch, L length, A the policy's tokens of one text, N states of all texts of a batch, R rows of tokens (B, and
one more for each text that goes on in another).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class TokenisedText:
    """One text. The policy's tokens are its actions, all others (prompt, the environment's replies) are state."""

    input_ids: NDArray[np.int64]
    """[L], without padding."""
    actions: NDArray[np.int64]
    """[A], where the policy's tokens stand, increasing, none of them at 0."""
    rewards: NDArray[np.float32]
    """[A], what followed each of them."""
    turn_ends: NDArray[np.bool_]
    """[A], True at the last token of a turn."""
    terminated: bool
    """Whether it ended by itself. One that was cut off goes on in a state that has a value."""
    next_ids: NDArray[np.int64] | None = None
    """[L'], of one that was cut off: the text whose end is that state, where it is not the end of this one."""

    @property
    def total(self) -> float:
        """The sum of its rewards."""
        return float(self.rewards.sum())


@dataclass(frozen=True)
class TextReturns:
    """What follows each of the policy's tokens."""

    discounts: NDArray[np.float32]
    """[A], 0 after the last token of a text that terminated."""
    achieved: NDArray[np.float32]
    """[A], discounted sum of the rewards from the token on, as far as they were seen."""
    bounds: NDArray[np.float32]
    """[A], a return that the optimum is not below: of a text that was cut off, completed by the least return."""


def returns_of(
    text: TokenisedText, discount: float, per: Literal["turn", "token"], minimum_return: float
) -> TextReturns:
    """Discounts and returns of one text.

    Args:
        per: "turn" discounts after the last token of a turn only, "token" after every token.
        minimum_return: least possible return.
    """
    discounts = np.where(text.turn_ends | (per == "token"), discount, 1.0).astype(np.float32)
    achieved, bounds = np.empty_like(discounts), np.empty_like(discounts)
    following, bound = 0.0, 0.0 if text.terminated else minimum_return
    for index in range(len(discounts) - 1, -1, -1):
        following = float(text.rewards[index]) + float(discounts[index]) * following
        bound = float(text.rewards[index]) + float(discounts[index]) * bound
        achieved[index], bounds[index] = following, max(bound, minimum_return)
    if text.terminated:
        discounts[-1] = 0.0
    return TextReturns(discounts, achieved, bounds)


@dataclass(frozen=True)
class TextBatch:
    """Several texts, padded. A state is the position whose hidden state decides a token: the one before it."""

    input_ids: Tensor
    """int64 [R, L], the B texts, then those that some of them go on in."""
    attention_mask: Tensor
    """bool [R, L], True at real tokens."""
    states: Tensor
    """int64 [N], indices into R * L: of each text the state of each of the policy's tokens and, where it was cut off,
    the state it goes on from: after its last token, or after that of the text it goes on in."""
    labels: Tensor
    """int64 [N], the token that was said there; -1 where the text was cut off."""
    mask: Tensor
    """bool [B, A], True at the policy's tokens; the following are zero elsewhere."""
    tokens: Tensor
    """int64 [B, A]"""
    current: Tensor
    """int64 [B, A], which of the N states the token was said in."""
    following: Tensor
    """int64 [B, A], which of the N states comes next: after the environment's reply, where a turn ends."""
    rewards: Tensor
    """float32 [B, A]"""
    discounts: Tensor
    """float32 [B, A], 0 where nothing follows."""
    achieved: Tensor
    """float32 [B, A], see `TextReturns`."""
    bounds: Tensor
    """float32 [B, A], see `TextReturns`."""
    turn_ends: Tensor
    """bool [B, A]"""
    padding: Literal["left", "right"] = "right"

    def __len__(self) -> int:
        return len(self.mask)

    def to(self, device: torch.device | str) -> Self:
        """The batch on another device."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "padding"}
        moved = {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
        return replace(self, **moved)


def collate(
    texts: Sequence[TokenisedText],
    *,
    discount: float = 1.0,
    per: Literal["turn", "token"] = "turn",
    minimum_return: float = 0.0,
    pad_token: int = 0,
    padding: Literal["left", "right"] = "right",
) -> TextBatch:
    """Pad texts to one batch; see `returns_of` for the arguments about returns."""
    rows = [text.input_ids for text in texts]
    goes_on_in = {}
    for number, text in enumerate(texts):
        if text.next_ids is not None:
            goes_on_in[number] = len(rows)
            rows.append(text.next_ids)
    length = max(map(len, rows))
    width = max(len(text.actions) for text in texts)
    input_ids = np.full((len(rows), length), pad_token, np.int64)
    attention = np.zeros((len(rows), length), bool)
    starts = [length - len(row) if padding == "left" else 0 for row in rows]
    for number, (row, start) in enumerate(zip(rows, starts, strict=True)):
        real = slice(start, start + len(row))
        input_ids[number, real], attention[number, real] = row, True
    whole = {
        name: np.zeros((len(texts), width), dtype)
        for name, dtype in {
            "mask": bool,
            "tokens": np.int64,
            "current": np.int64,
            "following": np.int64,
            "rewards": np.float32,
            "discounts": np.float32,
            "achieved": np.float32,
            "bounds": np.float32,
            "turn_ends": bool,
        }.items()
    }
    states: list[NDArray[np.int64]] = []
    labels: list[NDArray[np.int64]] = []
    first = 0
    for number, text in enumerate(texts):
        count = len(text.actions)
        tokens = text.input_ids[text.actions]
        places, said = number * length + starts[number] + text.actions - 1, tokens
        if not text.terminated:
            last = goes_on_in.get(number, number)
            places, said = np.append(places, last * length + starts[last] + len(rows[last]) - 1), np.append(said, -1)
        states.append(places)
        labels.append(said)
        returns = returns_of(text, discount, per, minimum_return)
        current = first + np.arange(count)
        for name, values in {
            "mask": True,
            "tokens": tokens,
            "current": current,
            "following": np.minimum(current + 1, first + len(places) - 1),
            "rewards": text.rewards,
            "discounts": returns.discounts,
            "achieved": returns.achieved,
            "bounds": returns.bounds,
            "turn_ends": text.turn_ends,
        }.items():
            whole[name][number, :count] = values
        first += len(places)
    return TextBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention),
        states=torch.from_numpy(np.concatenate(states)),
        labels=torch.from_numpy(np.concatenate(labels)),
        padding=padding,
        **{name: torch.from_numpy(values) for name, values in whole.items()},
    )
