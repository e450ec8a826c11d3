"""The policy of a Q-function: the best bin of every action dimension, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qseq.networks.decoding import Select, epsilon_greedy, greedy
from qseq.networks.observation import FieldLayout
from qseq.policies import TokenPolicy, TokenPolicySpec
from qseq.robot.model import QRoboticTransformer
from qseq.values import make_value_transform


class QTransformerPolicy(TokenPolicy):
    """Greedy on Q, or random for single dimensions with probability `epsilon`."""

    kind = "q-transformer"

    def __init__(
        self, network: QRoboticTransformer, spec: TokenPolicySpec, *, epsilon: float = 0.0, **options: Any
    ) -> None:
        super().__init__(network, spec, **options)
        self.epsilon = epsilon
        self._values = network.values

    @classmethod
    def build_network(cls, spec: TokenPolicySpec, layouts: Mapping[str, FieldLayout]) -> QRoboticTransformer:
        return QRoboticTransformer.from_config(
            spec.network,
            layouts,
            num_actions=spec.tokenizer.num_tokens,
            action_bins=spec.tokenizer.num_bins,
            history=spec.history,
            values=make_value_transform(**spec.extra["value"]),
            initial_value=spec.extra["initial_value"],
            value_folds=spec.extra["value_folds"],
            token_mask_AK=spec.tokenizer.token_mask,
        )

    def scores(self, logits: Tensor) -> Tensor:
        return self._values.values(logits)

    def select(self) -> Select:
        return epsilon_greedy(self.epsilon, self._generator) if self.epsilon else greedy
