"""Q heads: from the trunk's hidden state to a logit for every token of the vocabulary, or for a few of them only.

Legend: N states, K tokens asked about, S tokens asked about in each state, V vocabulary, D width of the trunk, C logits
of one value (critics x atoms of its histogram; 1 for a plain value).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding, linear


class TokenRows(nn.Module, ABC):
    """`hidden_ND` to logits. The ways to ask give the same numbers; they differ in what they cost.

    `language_VD` are the rows of the language model's own head, for those that read them.
    """

    @abstractmethod
    def every(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        """Logits `[N, V, C]` of all tokens."""

    @abstractmethod
    def at(self, hidden_ND: Tensor, language_VD: Tensor, tokens_NK: Tensor) -> Tensor:
        """Logits `[N, K, C]` of the tokens int64 `[N, K]`: K rows are read in each state, not V."""

    @abstractmethod
    def at_shared(self, hidden_ND: Tensor, language_VD: Tensor, tokens_S: Tensor) -> Tensor:
        """Logits `[N, S, C]` of the same tokens in every state: one small matrix product."""

    @abstractmethod
    def mean(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        """The mean `[N, 1, C]` over the vocabulary, without computing all of it."""

    @abstractmethod
    def matrices(self, language_VD: Tensor) -> Tensor:
        """The matrices `[C, V, D]` of the map from hidden states to what tells the tokens of a state apart."""


class LinearRows(TokenRows):
    """A row of weights for each token and logit: `logit = row . hidden`.

    A token has no bias, so that the head can be merged into that of a language model, which has none.
    """

    def __init__(self, width: int, vocabulary: int, logits: int) -> None:
        super().__init__()
        # Small, so that all values start alike; not zero, so that two critics start different.
        self.weight_CVD = nn.Parameter(torch.randn(logits, vocabulary, width) * (0.1 / math.sqrt(width)))

    def every(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        return torch.stack([linear(hidden_ND, weight_VD) for weight_VD in self.weight_CVD], dim=-1)

    def at(self, hidden_ND: Tensor, language_VD: Tensor, tokens_NK: Tensor) -> Tensor:
        rows = (embedding(tokens_NK, weight_VD) for weight_VD in self.weight_CVD)
        return torch.stack([_products(rows_NKD, hidden_ND) for rows_NKD in rows], dim=-1)

    def at_shared(self, hidden_ND: Tensor, language_VD: Tensor, tokens_S: Tensor) -> Tensor:
        return torch.stack([linear(hidden_ND, embedding(tokens_S, weight_VD)) for weight_VD in self.weight_CVD], dim=-1)

    def mean(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        return linear(hidden_ND, self.weight_CVD.mean(1)).unsqueeze(1)

    def matrices(self, language_VD: Tensor) -> Tensor:
        return self.weight_CVD


class TiedRows(TokenRows):
    """The rows of the language model's head, seen through a learnt matrix for each logit: `logit = row . (A hidden)`.

    The rows themselves get no gradient from here: they mean what the policy makes of them. Costs D x D weights in the
    place of V x D, and knows from the start which tokens are alike.
    """

    def __init__(self, width: int, logits: int) -> None:
        super().__init__()
        self.weight_CDD = nn.Parameter(torch.randn(logits, width, width) * (0.1 / width))

    def _seen(self, hidden_ND: Tensor) -> list[Tensor]:
        return [linear(hidden_ND, weight_DD) for weight_DD in self.weight_CDD]

    def every(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        rows_VD = language_VD.detach()
        return torch.stack([linear(seen_ND, rows_VD) for seen_ND in self._seen(hidden_ND)], dim=-1)

    def at(self, hidden_ND: Tensor, language_VD: Tensor, tokens_NK: Tensor) -> Tensor:
        rows_NKD = embedding(tokens_NK, language_VD.detach())
        return torch.stack([_products(rows_NKD, seen_ND) for seen_ND in self._seen(hidden_ND)], dim=-1)

    def at_shared(self, hidden_ND: Tensor, language_VD: Tensor, tokens_S: Tensor) -> Tensor:
        rows_SD = embedding(tokens_S, language_VD.detach())
        return torch.stack([linear(seen_ND, rows_SD) for seen_ND in self._seen(hidden_ND)], dim=-1)

    def mean(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        row_D = language_VD.detach().mean(0)
        return torch.stack([seen_ND @ row_D for seen_ND in self._seen(hidden_ND)], dim=-1).unsqueeze(1)

    def matrices(self, language_VD: Tensor) -> Tensor:
        return torch.einsum("vd,cde->cve", language_VD.detach(), self.weight_CDD)


class DuelingRows(TokenRows):
    """The value of the state plus the advantage of the token, whose mean over the vocabulary is taken off.

    Wang et al. 2016, equation 9.
    """

    def __init__(self, advantage: TokenRows, width: int, logits: int) -> None:
        super().__init__()
        self.advantage = advantage
        self.state = nn.Linear(width, logits)
        nn.init.zeros_(self.state.bias)
        nn.init.normal_(self.state.weight, std=0.1 / math.sqrt(width))

    def _offset(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        return self.mean(hidden_ND, language_VD) - self.advantage.mean(hidden_ND, language_VD)

    def every(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        return self.advantage.every(hidden_ND, language_VD) + self._offset(hidden_ND, language_VD)

    def at(self, hidden_ND: Tensor, language_VD: Tensor, tokens_NK: Tensor) -> Tensor:
        return self.advantage.at(hidden_ND, language_VD, tokens_NK) + self._offset(hidden_ND, language_VD)

    def at_shared(self, hidden_ND: Tensor, language_VD: Tensor, tokens_S: Tensor) -> Tensor:
        return self.advantage.at_shared(hidden_ND, language_VD, tokens_S) + self._offset(hidden_ND, language_VD)

    def mean(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        state_NC: Tensor = self.state(hidden_ND)
        return state_NC.unsqueeze(1)

    def matrices(self, language_VD: Tensor) -> Tensor:
        return self.advantage.matrices(language_VD)


class QHead(nn.Module):
    """`TokenRows` with the offset at which all values start, its logits in the shape that a value transform reads.

    Args:
        rows: its C is the product of `offset`'s shape.
        offset: first logits of every value, in the shape of the logits of one value (`ValueTransform.atom_shape`).
    """

    def __init__(self, rows: TokenRows, offset: Tensor) -> None:
        super().__init__()
        self.rows = rows
        self.atom_shape = offset.shape
        self.offset = nn.Parameter(offset.flatten().clone())  # flat: parts of a scalar cannot be given to processes

    def every(self, hidden_ND: Tensor, language_VD: Tensor) -> Tensor:
        """Logits `[N, V, *atom_shape]`."""
        return self._shaped(self.rows.every(hidden_ND, language_VD))

    def at(self, hidden_ND: Tensor, language_VD: Tensor, tokens_NK: Tensor) -> Tensor:
        """Logits `[N, K, *atom_shape]`."""
        return self._shaped(self.rows.at(hidden_ND, language_VD, tokens_NK))

    def at_shared(self, hidden_ND: Tensor, language_VD: Tensor, tokens_S: Tensor) -> Tensor:
        """Logits `[N, S, *atom_shape]`."""
        return self._shaped(self.rows.at_shared(hidden_ND, language_VD, tokens_S))

    def _shaped(self, logits_NKC: Tensor) -> Tensor:
        return (logits_NKC + self.offset).reshape(*logits_NKC.shape[:2], *self.atom_shape)


def _products(rows_NKD: Tensor, hidden_ND: Tensor) -> Tensor:
    return (rows_NKD @ hidden_ND.unsqueeze(-1)).squeeze(-1)
