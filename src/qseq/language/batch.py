"""What a text is to learning: tokens, which of them the policy said, and what followed each of those.

Legend: B batch, L length, A the policy's tokens of one text, N states of all texts of a batch.
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
    """int64 [B, L]"""
    attention_mask: Tensor
    """bool [B, L], True at real tokens."""
    states: Tensor
    """int64 [N], indices into B * L: of each text the state of each of the policy's tokens and, where it was cut off,
    the state after its last token."""
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
        return len(self.input_ids)

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
    length = max(len(text.input_ids) for text in texts)
    width = max(len(text.actions) for text in texts)
    input_ids = np.full((len(texts), length), pad_token, np.int64)
    attention = np.zeros((len(texts), length), bool)
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
    for row, text in enumerate(texts):
        start = length - len(text.input_ids) if padding == "left" else 0
        real = slice(start, start + len(text.input_ids))
        input_ids[row, real], attention[row, real] = text.input_ids, True
        count = len(text.actions)
        tokens = text.input_ids[text.actions]
        positions, said = text.actions - 1, tokens
        if not text.terminated:
            positions, said = np.append(positions, len(text.input_ids) - 1), np.append(said, -1)
        states.append(row * length + start + positions)
        labels.append(said)
        returns = returns_of(text, discount, per, minimum_return)
        current = first + np.arange(count)
        for name, values in {
            "mask": True,
            "tokens": tokens,
            "current": current,
            "following": np.minimum(current + 1, first + len(positions) - 1),
            "rewards": text.rewards,
            "discounts": returns.discounts,
            "achieved": returns.achieved,
            "bounds": returns.bounds,
            "turn_ends": text.turn_ends,
        }.items():
            whole[name][row, :count] = values
        first += len(positions)
    return TextBatch(
        input_ids=torch.from_numpy(input_ids),
        attention_mask=torch.from_numpy(attention),
        states=torch.from_numpy(np.concatenate(states)),
        labels=torch.from_numpy(np.concatenate(labels)),
        padding=padding,
        **{name: torch.from_numpy(values) for name, values in whole.items()},
    )
