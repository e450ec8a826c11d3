"""A small world of texts whose values are known exactly, and a table in the place of a language model.

Legend: B batch, L length, N states, P distinct prefixes, V vocabulary.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from qseq.language.batch import TokenisedText
from qseq.language.values import ReturnRange
from qseq.values import UnboundedValue, ValueTransform

PAD, EOS, START, A, B, X, Y = range(7)
VOCABULARY = 7
Prefix = tuple[int, ...]


@dataclass(frozen=True)
class TextWorld:
    """Two turns of two tokens (A or B); the environment replies with X or Y after each.

    Attributes:
        chance: the reply is X or Y with equal chances, else it follows from what was said.
        seed: of the rewards, which follow every token of the policy and are of both signs.
        discount, per: as in the objective.
        memory: rewards depend on where a token stands and on so many tokens up to it.
    """

    chance: bool = False
    seed: int = 0
    discount: float = 0.9
    per: str = "turn"
    turns: int = 2
    memory: int = 99

    def reward(self, prefix: Prefix) -> float:
        """What follows the last token of `prefix`."""
        return float(np.random.default_rng([self.seed, len(prefix), *prefix[-self.memory :]]).uniform(-1, 1))

    def replies(self, prefix: Prefix) -> list[int]:
        """The environment's possible replies, all equally likely."""
        return [X, Y] if self.chance else [X if sum(prefix) % 2 else Y]

    def decisions(self, prefix: Prefix) -> int:
        """How many tokens of `prefix` the policy said."""
        return sum(token in (A, B) for token in prefix)

    def value(self, prefix: Prefix) -> float:
        """The best return from a state in which the policy decides."""
        return max(self.q(prefix, token) for token in (A, B))

    def q(self, prefix: Prefix, token: int) -> float:
        """The best return after saying `token`."""
        said = (*prefix, token)
        count = self.decisions(said)
        turn_end = count % 2 == 0
        discount = self.discount if turn_end or self.per == "token" else 1.0
        if count == 2 * self.turns:
            return self.reward(said)
        following = [(*said, reply) for reply in self.replies(said)] if turn_end else [said]
        return self.reward(said) + discount * float(np.mean([self.value(after) for after in following]))

    def states(self) -> list[Prefix]:
        """Every state in which the policy decides."""
        found, frontier = [], [(START,)]
        while frontier:
            prefix = frontier.pop()
            found.append(prefix)
            for token in (A, B):
                said = (*prefix, token)
                if self.decisions(said) == 2 * self.turns:
                    continue
                turn_end = self.decisions(said) % 2 == 0
                frontier += [(*said, reply) for reply in self.replies(said)] if turn_end else [said]
        return found

    def texts(self, *, cut: bool = False, elsewhere: bool = False) -> list[TokenisedText]:
        """Every text there can be, as often as it is likely; with `cut` also each cut off after its first turn.

        Args:
            elsewhere: those cut off end with their first turn, and go on in another text, which ends with the reply.
        """
        whole = []
        for said in itertools.product((A, B), repeat=2 * self.turns):
            for choice in itertools.product(range(2), repeat=self.turns - 1):
                prefix: Prefix = (START,)
                for turn in range(self.turns):
                    prefix = (*prefix, *said[2 * turn : 2 * turn + 2])
                    if turn < self.turns - 1:
                        replies = self.replies(prefix)
                        prefix = (*prefix, replies[choice[turn] % len(replies)])
                whole.append(self.text(prefix, terminated=True))
                if cut and elsewhere:
                    first = self.text(prefix[:3], terminated=False)
                    whole.append(replace(first, next_ids=np.array(prefix[:4])))
                elif cut:
                    whole.append(self.text(prefix[:4], terminated=False))
        return whole

    def text(self, prefix: Prefix, *, terminated: bool) -> TokenisedText:
        actions = np.array([place for place, token in enumerate(prefix) if token in (A, B)])
        return TokenisedText(
            input_ids=np.array(prefix),
            actions=actions,
            rewards=np.array([self.reward(prefix[: place + 1]) for place in actions], np.float32),
            turn_ends=np.arange(len(actions)) % 2 == 1,
            terminated=terminated,
        )


class TableModel(nn.Module):
    """A row of Q logits, policy logits and a state's value for every prefix; what the objective asks of a model."""

    def __init__(
        self, prefixes: list[Prefix], *, returns: ReturnRange | None = None, values: ValueTransform | None = None
    ) -> None:
        super().__init__()
        self.rows = {prefix: row for row, prefix in enumerate(prefixes)}
        self.vocabulary = VOCABULARY
        self.returns = returns or ReturnRange(0.0, 1.0)
        self.values = self.state_transform = values or UnboundedValue()
        shape = self.values.atom_shape
        self.q = nn.Parameter(torch.zeros(len(prefixes) + 1, VOCABULARY, *shape))
        self.policy = nn.Parameter(torch.zeros(len(prefixes) + 1, VOCABULARY))
        self.state = nn.Parameter(torch.zeros(len(prefixes) + 1, *shape))
        self.shares_trunk = False
        self._seen: dict[bytes, Tensor] = {}  # the tests show the same texts again and again

    def encode(self, input_ids_BL: Tensor, attention_mask_BL: Tensor | None = None) -> Tensor:
        mask_BL = torch.ones_like(input_ids_BL, dtype=torch.bool) if attention_mask_BL is None else attention_mask_BL
        key = torch.stack([input_ids_BL, mask_BL.long()]).numpy().tobytes()
        if key in self._seen:
            return self._seen[key]
        hidden_BLP = torch.zeros(*input_ids_BL.shape, len(self.rows) + 1)
        for row, (ids, real) in enumerate(zip(input_ids_BL.tolist(), mask_BL.tolist(), strict=True)):
            prefix: Prefix = ()
            for place, (token, is_real) in enumerate(zip(ids, real, strict=True)):
                prefix = (*prefix, token) if is_real else prefix
                hidden_BLP[row, place, self.rows.get(prefix, len(self.rows))] = 1.0
        self._seen[key] = hidden_BLP
        return hidden_BLP

    def _rows(self, table: Tensor, hidden_NP: Tensor) -> Tensor:
        return table[hidden_NP.argmax(-1)]

    def policy_logits(self, hidden_ND: Tensor) -> Tensor:
        return self._rows(self.policy, hidden_ND)

    def q_logits(self, hidden_ND: Tensor) -> Tensor:
        return self._rows(self.q, hidden_ND)

    def q_logits_at(self, hidden_ND: Tensor, tokens_NK: Tensor) -> Tensor:
        logits = self.q_logits(hidden_ND)
        index = tokens_NK.reshape(*tokens_NK.shape, *[1] * (logits.ndim - 2))
        return logits.gather(1, index.expand(-1, -1, *logits.shape[2:]))

    def q_logits_at_shared(self, hidden_ND: Tensor, tokens_S: Tensor) -> Tensor:
        return self.q_logits(hidden_ND)[:, tokens_S]

    def q_values_at(self, hidden_ND: Tensor, tokens_NK: Tensor) -> Tensor:
        return self.returns.from_unit(self.values.values(self.q_logits_at(hidden_ND, tokens_NK)))

    def state_logits(self, hidden_ND: Tensor) -> Tensor:
        return self._rows(self.state, hidden_ND)

    def policy_parameters(self) -> list[Tensor]:
        return [self.policy]

    def q_parameters(self) -> list[Tensor]:
        return [self.q]
