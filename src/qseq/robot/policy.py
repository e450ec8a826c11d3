"""The policy of a Q-function: the best bin of every action dimension, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, cast

from torch import Tensor

from qseq.configuration import from_dict
from qseq.errors import RequestError
from qseq.networks.decoder import Decoder
from qseq.networks.decoding import Select
from qseq.networks.guidance import GuidedDecoder
from qseq.networks.head import with_order_token
from qseq.networks.observation import FieldLayout
from qseq.policies import TokenPolicy, TokenPolicySpec
from qseq.policies.files import Weights, write_policy
from qseq.robot.decoding import DecodingConfig, choose_tokens, log_shares
from qseq.robot.model import QRoboticTransformer
from qseq.robot.prior import PriorGuidedDecoder
from qseq.values import BoundedValue, CategoricalValue, ValueTransform, make_value_transform


def value_range(values: ValueTransform) -> tuple[float, float] | None:
    """The least and the greatest value there can be; None without bounds."""
    return (values.low, values.high) if isinstance(values, BoundedValue | CategoricalValue) else None


class QTransformerPolicy(TokenPolicy):
    """Chooses by Q as `DecodingConfig` says: greedily unless asked otherwise, when trained or when loaded.

    Args:
        decoding: fields of `DecodingConfig`, in place of those the policy was trained with.
    """

    kind = "q-transformer"

    def __init__(
        self,
        network: QRoboticTransformer,
        spec: TokenPolicySpec,
        *,
        seed: int = 0,
        use_cache: bool = True,
        cond_scale: float = 1.0,
        weights: Weights | None = None,
        compiled: bool = False,
        repeat_penalty: float = 0.0,
        **decoding: Any,
    ) -> None:
        if unknown := sorted(decoding.keys() - {option.name for option in fields(DecodingConfig)}):
            raise TypeError(f"got an unexpected keyword argument '{unknown[0]}'")
        self.decoding = from_dict(DecodingConfig, spec.extra.get("decoding", {}) | decoding)
        self.decisions = 0  # not by `seed`, which starts episodes: noise falls over the policy's whole life
        self._range = value_range(network.state_value)
        if self.decoding.relative and self._range is None:
            raise RequestError(
                "decoding.relative: found true, expected false: the network's values have no bounds to be shares of"
            )
        super().__init__(
            network,
            spec,
            seed=seed,
            use_cache=use_cache,
            cond_scale=cond_scale,
            weights=weights,
            compiled=compiled,
            repeat_penalty=repeat_penalty,
        )
        self._network = cast(QRoboticTransformer, self.network)
        if self.decoding.prior_weight and self._network.prior is None:
            raise RequestError(
                f"decoding.prior_weight: found {self.decoding.prior_weight}, expected 0: the network was trained with "
                "objective.prior_weight=0 and has no prior"
            )

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
            prior=spec.extra["prior"],
            matching=spec.extra.get("matching", False),  # policies of earlier versions do not say
            token_mask_AK=spec.tokenizer.token_mask,
        )

    def save_for_acting(self, folder: str | Path) -> None:
        """As `save_pretrained`, without what only training reads: the values of states, the head that matches."""
        training = ("folded_value.", "matching.")
        weights = {n: value for n, value in self.network.state_dict().items() if not n.startswith(training)}
        spec = replace(self.spec, extra=self.spec.extra | {"value_folds": 0, "matching": False})
        write_policy(self.kind, spec, weights, Path(folder))

    def scores(self, logits: Tensor) -> Tensor:
        return self._network.values.values(logits)

    def _compared(self, logits: Tensor) -> Tensor:
        """What bins are chosen by, before the prior."""
        values = self.scores(logits)
        return log_shares(values, *self._range) if self.decoding.relative and self._range else values

    def select(self) -> Select:
        return self.decoding.select(self.decisions, self._generator)

    @property
    def is_plain(self) -> bool:
        return super().is_plain and self.decoding.beam_width == 1 and not self.decoding.prior_weight

    def choose(self, decoder: Decoder, context: Tensor) -> Tensor:
        select = self.selecting()
        self.decisions += 1
        score: Callable[[Tensor], Tensor] = self._compared
        if self.decoding.prior_weight:
            decoder, score = self._with_prior(decoder), PriorGuidedDecoder.choose_by
        return choose_tokens(
            self._network,
            context,
            select,
            decoder=decoder,
            score=score,
            order=self.decoding.order,
            beam_width=self.decoding.beam_width,
            use_cache=self.use_cache,
            decode=self.decode,
        )[0]

    def _with_prior(self, critic: Decoder) -> PriorGuidedDecoder:
        """The critic, guided by the instruction or not, with the prior guided likewise."""
        network = self._network
        assert network.prior is not None
        prior = GuidedDecoder(network.prior, critic.scale) if isinstance(critic, GuidedDecoder) else network.prior
        mask_TK = with_order_token(network.token_mask_AK, network.orders_MA, network.decoder.num_bins)
        return PriorGuidedDecoder(
            critic,
            prior,
            values=self._compared,
            weight=self.decoding.prior_weight,
            token_mask_TK=None if mask_TK is None else mask_TK.to(network.device),
        )
