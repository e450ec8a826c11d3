"""The policy of a Q-function: the best bin of every action dimension, one after the other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from qseq.errors import RequestError
from qseq.networks.decoding import Select, epsilon_greedy, greedy, sample
from qseq.networks.observation import FieldLayout
from qseq.policies import TokenPolicy, TokenPolicySpec
from qseq.robot.model import QRoboticTransformer
from qseq.values import make_value_transform


class QTransformerPolicy(TokenPolicy):
    """Greedy on Q, or random for single dimensions with probability `epsilon`.

    With a `temperature` above 0, Gumbel noise of that scale is added to Q before the best bin is taken, which draws
    bins from the softmax of `Q / temperature`.
    """

    kind = "q-transformer"

    def __init__(
        self,
        network: QRoboticTransformer,
        spec: TokenPolicySpec,
        *,
        epsilon: float = 0.0,
        temperature: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(network, spec, **options)
        if epsilon and temperature:
            raise RequestError(f"policy options: found epsilon={epsilon} and temperature={temperature}, expected one")
        self.epsilon = epsilon
        self.temperature = temperature
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
        if self.temperature:
            return sample(self.temperature, self._generator)
        return epsilon_greedy(self.epsilon, self._generator) if self.epsilon else greedy
