"""The policy of behaviour cloning: tokens drawn from the learnt distribution, or the likeliest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from torch import Tensor

from qseq.errors import RequestError
from qseq.networks.action_network import ActionNetwork
from qseq.networks.decoding import Select, greedy, sample
from qseq.networks.head import require_plain_head
from qseq.networks.observation import FieldLayout
from qseq.policies import TokenPolicy, TokenPolicySpec


class CloningPolicy(TokenPolicy):
    """Greedy or sampling decoding; the scores are log-probabilities up to a constant."""

    kind = "bc"

    def __init__(
        self,
        network: ActionNetwork,
        spec: TokenPolicySpec,
        *,
        decoding: Literal["greedy", "sample"] = "greedy",
        temperature: float = 1.0,
        **options: Any,
    ) -> None:
        super().__init__(network, spec, **options)
        if decoding not in ("greedy", "sample"):
            raise RequestError(f"decoding: found '{decoding}', expected greedy or sample")
        if temperature <= 0:
            raise RequestError(f"temperature: found {temperature}, expected more than 0")
        self.decoding = decoding
        self.temperature = temperature

    @classmethod
    def build_network(cls, spec: TokenPolicySpec, layouts: Mapping[str, FieldLayout]) -> ActionNetwork:
        require_plain_head(spec.network.head)
        return ActionNetwork(
            spec.network,
            layouts,
            num_tokens=spec.tokenizer.num_tokens,
            num_bins=spec.tokenizer.num_bins,
            history=spec.history,
            token_mask_AK=spec.tokenizer.token_mask,
        )

    def scores(self, logits: Tensor) -> Tensor:
        return logits

    def select(self) -> Select:
        return greedy if self.decoding == "greedy" else sample(self.temperature, self._generator)
