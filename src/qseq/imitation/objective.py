"""Behaviour cloning over action tokens: cross-entropy of every token given the ones before it.

Legend: B batch, A action tokens of one decision, K bins.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from qseq.actions import ActionTokenizer
from qseq.episodes import WindowBatch, WindowSpec
from qseq.networks.action_network import ActionNetwork
from qseq.networks.likelihood import among_existing, negative_log_likelihood
from qseq.policies.windows import decision_tokens_of, observation_at
from qseq.training import Losses


class CloningObjective:
    """Mean negative log-likelihood of the tokens of the decision at t.

    Args:
        tokenizer: actions <-> tokens.
        spec: the shape of the windows.
        instructions: what the network reads of the data set's instructions, row by instruction id.
    """

    def __init__(self, tokenizer: ActionTokenizer, spec: WindowSpec, instructions: Tensor) -> None:
        self.tokenizer = tokenizer
        self.spec = spec
        self.instructions = instructions

    def counts(self, batch: WindowBatch) -> dict[str, Tensor]:
        """All that is learnt is a mean over tokens inside the episode."""
        return {"loss": decision_tokens_of(batch, self.tokenizer)[1].sum()}

    def loss(self, batch: WindowBatch, online: nn.Module, target: nn.Module | None) -> Losses:
        """See the class; `target` is not used."""
        network = cast(ActionNetwork, online)
        tokens_BA, weights_BA = decision_tokens_of(batch, self.tokenizer)
        self.instructions = self.instructions.to(tokens_BA.device)
        instruction = network.embed_instructions(self.instructions, batch.instruction_ids)
        context_BSD = network.encode(observation_at(batch, self.spec), instruction)
        logits_BAK = network.decode(context_BSD, tokens_BA[:, :-1]).float()
        logits_BAK = among_existing(logits_BAK, self.tokenizer.token_mask)
        losses_BA = negative_log_likelihood(logits_BAK, tokens_BA)
        total = (losses_BA * weights_BA).sum() / weights_BA.sum()
        with torch.no_grad():
            hits_BA = (logits_BAK.argmax(-1) == tokens_BA).float()
            accuracy = (hits_BA * weights_BA).sum() / weights_BA.sum()
        return Losses(total=total, terms={"accuracy": accuracy})
