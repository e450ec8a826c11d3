"""The objective of the language family: texts -> targets of the policy's tokens -> loss.

Legend: B batch, L length, A the policy's tokens of one text, N states of all texts, M decisions (the states in which a
token was said), O places where someone else speaks next, P positions of all rows, K tokens of the support, S sampled
tokens, V vocabulary, C critics, D width of the trunk. A chunk has n states or m decisions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qseq.language.batch import TextBatch
from qseq.language.chunked import CHUNK_ELEMENTS, chunk_rows, chunked_sum
from qseq.language.config import TextObjectiveConfig
from qseq.language.support import choose_support
from qseq.language.values import ReturnRange
from qseq.training import Losses
from qseq.values import LeastOf, ValueTransform, off_data_mean, take_tokens, token_backup

GREATEST_MERIT = 20.0
"""Bound of the weights of imitation (CRR, Wang et al. 2020)."""


class TokenQModel(Protocol):
    """What the objective asks of a model (and of the tables the tests put in its place); see `QLanguageModel`."""

    returns: ReturnRange
    values: ValueTransform
    state_transform: ValueTransform
    vocabulary: int

    @property
    def shares_trunk(self) -> bool: ...
    def encode(self, input_ids_BL: Tensor, attention_mask_BL: Tensor | None = None) -> Tensor: ...
    def policy_logits(self, hidden_ND: Tensor) -> Tensor: ...
    def q_logits(self, hidden_ND: Tensor) -> Tensor: ...
    def q_logits_at(self, hidden_ND: Tensor, tokens_NK: Tensor) -> Tensor: ...
    def q_logits_at_shared(self, hidden_ND: Tensor, tokens_S: Tensor) -> Tensor: ...
    def q_values_at(self, hidden_ND: Tensor, tokens_NK: Tensor) -> Tensor: ...
    def state_logits(self, hidden_ND: Tensor) -> Tensor: ...
    def policy_parameters(self) -> Sequence[Tensor]: ...
    def q_parameters(self) -> Sequence[Tensor]: ...


class TextObjective:
    """Temporal difference over the policy's tokens, imitation of them, and a pull of all other tokens to the floor.

    `loss = td_weight * 1/2 TD + conservative_weight * 1/2 pull + cloning_weight * imitation` (and the expectile loss of
    the state's value), each a mean over the policy's tokens of the batch. Tokens that the policy did not say are state:
    no loss is at them, wherever they stand, but that of `observation_weight`, which predicts them. Values and targets
    are shares of the range of returns, so no weight depends on the unit of the rewards. Whatever needs logits of the
    whole vocabulary goes by chunks of states.

    Args:
        chunk_elements: logits of one chunk.
    """

    def __init__(self, config: TextObjectiveConfig, *, chunk_elements: int = CHUNK_ELEMENTS) -> None:
        self.config = config
        self.chunk_elements = chunk_elements

    def counts(self, batch: TextBatch) -> dict[str, Tensor]:
        """All that is learnt is a mean over the policy's tokens."""
        return {"loss": batch.mask.sum()}

    def loss(self, batch: TextBatch, online: nn.Module, target: nn.Module | None) -> Losses:
        """See the class. Raises ValueError without a target network, where values are bootstrapped from one."""
        config, model = self.config, cast(TokenQModel, online)
        every_PD = encoded(model, batch)
        hidden_ND = every_PD[batch.states]
        with torch.no_grad():
            averaged, averaged_ND = self._averaged(batch, model, hidden_ND, target)
        if config.cloning_temperature is None:
            total, terms, next_values_N = self._policy(batch, model, hidden_ND, averaged, averaged_ND)
        else:  # how well a token turned out depends on what comes after it: all values first, then imitation
            with torch.no_grad():
                _, _, next_values_N = self._policy(batch, model, hidden_ND, averaged, averaged_ND)
            assert next_values_N is not None  # the configuration sees to it
            merits_N = self.merits(batch, next_values_N)
            total, terms, _ = self._policy(batch, model, hidden_ND, None, None, merits_N)
        if config.observation_weight:
            observation_loss = self._observations(batch, model, every_PD)
            total = total + config.observation_weight * observation_loss
            terms["observation"] = observation_loss.detach()
        if not config.learns_values:
            return Losses(total=total, terms=terms)
        decisions_M = batch.current[batch.mask]
        hidden_MD, tokens_M = hidden_ND[decisions_M], batch.tokens[batch.mask]
        targets_M = model.returns.to_unit(self.targets(batch, next_values_N)[batch.mask])
        loss, parts = self._values(model, hidden_MD, tokens_M, targets_M, self._floor(model))
        total = total + loss
        terms |= parts
        if config.bootstrap == "expectile":
            assert averaged is not None  # an expectile has a target network
            assert averaged_ND is not None
            q_M = averaged.q_values_at(averaged_ND[decisions_M], tokens_M[:, None])[:, 0].detach()
            expectile_loss = self._expectile_loss(model, hidden_MD, model.returns.to_unit(q_M))
            total = total + config.state_value_weight * expectile_loss
            terms["expectile"] = expectile_loss.detach()
        return Losses(total=total, terms=terms)

    @torch.no_grad()
    def targets(self, batch: TextBatch, next_values_N: Tensor | None) -> Tensor:
        """Returns `[B, A]` that the policy's tokens should be worth, by the one token backup.

        Args:
            next_values_N: what each state is worth; None where nothing is bootstrapped.
        """
        if next_values_N is None:
            nothing_BA = torch.zeros_like(batch.rewards)
            return token_backup(batch.achieved, nothing_BA, nothing_BA)
        carry: bool | Tensor = False
        if self.config.carry != "none":
            carry = functional.pad(batch.mask[:, 1:], (0, 1))
            if self.config.carry == "turn":
                carry = carry & ~batch.turn_ends
        bounds_BA = batch.bounds if self.config.monte_carlo_bound else None
        return token_backup(batch.rewards, batch.discounts, next_values_N[batch.following], bounds_BA, carry=carry)

    @torch.no_grad()
    def merits(self, batch: TextBatch, values_N: Tensor) -> Tensor:
        """Weights `[N]` in the imitation of what was said in each state; 1 where nothing was.

        Tokens are judged by what their turn came to, and by the value of the state after it: values within the turn are
        not asked, as they would have to know already what is to be learnt.

        Args:
            values_N: what each state is worth.
        """
        assert self.config.cloning_temperature is not None
        after_BA, outcome_B, outcomes = values_N[batch.following], torch.zeros_like(batch.rewards[:, 0]), []
        goes_on_BA = functional.pad(batch.mask[:, 1:], (0, 1)) & ~batch.turn_ends
        for place in reversed(range(after_BA.shape[1])):
            next_B = torch.where(goes_on_BA[:, place], outcome_B, after_BA[:, place])
            outcome_B = token_backup(batch.rewards[:, place], batch.discounts[:, place], next_B)
            outcomes.append(outcome_B)
        decisions_M = batch.current[batch.mask]
        advantages_M = torch.stack(outcomes[::-1], dim=1)[batch.mask] - values_N[decisions_M]
        weights_M = (advantages_M / self.config.cloning_temperature).exp().clamp_max(GREATEST_MERIT)
        return torch.ones_like(values_N).index_copy(0, decisions_M, weights_M)

    def _averaged(
        self, batch: TextBatch, model: TokenQModel, hidden_ND: Tensor, target: nn.Module | None
    ) -> tuple[TokenQModel | None, Tensor | None]:
        """The target network and its hidden states `[N, D]`, where anything is bootstrapped from it."""
        if not self.config.learns_values or self.config.bootstrap == "none":
            return None, None
        if target is None:
            raise ValueError("Q-learning needs a target network")
        averaged = cast(TokenQModel, target)
        return averaged, hidden_ND.detach() if model.shares_trunk else states_of(averaged, batch)

    def _policy(
        self,
        batch: TextBatch,
        model: TokenQModel,
        hidden_ND: Tensor,
        averaged: TokenQModel | None,
        averaged_ND: Tensor | None,
        merits_N: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        """The weighted imitation loss, its terms, and what each of the N states is worth to the target network.

        Both in one pass over chunks, because the policy's logits say which tokens may be worth anything.

        Args:
            merits_N: weights of the states in the imitation; None is 1 for each.
        """
        config = self.config
        values_N = None if averaged is None else torch.zeros(len(hidden_ND), device=hidden_ND.device)
        hits: list[Tensor] = []

        def chunk_loss(part_nD: Tensor, rows: slice) -> Tensor:
            labels_n = batch.labels[rows]
            logits_nV = model.policy_logits(part_nD)
            with torch.no_grad():
                if values_N is not None and averaged is not None and averaged_ND is not None:
                    values_N[rows] = self._state_values(averaged, averaged_ND[rows], logits_nV.detach(), labels_n)
                hits.append((logits_nV.argmax(-1) == labels_n).sum())
            if merits_N is None:
                return functional.cross_entropy(logits_nV.float(), labels_n, ignore_index=-1, reduction="sum")
            losses_n = functional.cross_entropy(logits_nV.float(), labels_n, ignore_index=-1, reduction="none")
            return (losses_n * merits_N[rows]).sum()

        rows = chunk_rows(model.vocabulary, self.chunk_elements)
        with torch.set_grad_enabled(torch.is_grad_enabled() and config.cloning_weight > 0.0):
            loss = chunked_sum(chunk_loss, hidden_ND, model.policy_parameters(), rows=rows)
        count = batch.mask.sum()
        terms = {"imitation": loss.detach() / count, "accuracy": torch.stack(hits).sum() / count}
        return config.cloning_weight * loss / count, terms, values_N

    def _observations(self, batch: TextBatch, model: TokenQModel, every_PD: Tensor) -> Tensor:
        """Cross-entropy of everyone else's tokens by the language model's logits, a sum for each of the policy's."""
        places_O, labels_O = observations_of(batch)

        def chunk_loss(part_nD: Tensor, rows: slice) -> Tensor:
            return functional.cross_entropy(model.policy_logits(part_nD).float(), labels_O[rows], reduction="sum")

        rows = chunk_rows(model.vocabulary, self.chunk_elements)
        return chunked_sum(chunk_loss, every_PD[places_O], model.policy_parameters(), rows=rows) / batch.mask.sum()

    def _state_values(self, averaged: TokenQModel, hidden_nD: Tensor, logits_nV: Tensor, labels_n: Tensor) -> Tensor:
        """Returns `[n]` to expect in each state.

        Args:
            logits_nV: the policy's. labels_n: the data's tokens, -1 where a text was cut off.
        """
        config = self.config
        if config.bootstrap == "expectile":
            return averaged.returns.from_unit(averaged.state_transform.values(averaged.state_logits(hidden_nD)))
        if config.bootstrap == "sarsa":
            tokens_n = torch.where(labels_n < 0, logits_nV.argmax(-1), labels_n)
            return averaged.q_values_at(hidden_nD, tokens_n[:, None])[:, 0]
        if config.support.is_everything:
            return averaged.returns.from_unit(averaged.values.values(averaged.q_logits(hidden_nD)).amax(-1))
        tokens_nK, inside_nK = choose_support(logits_nV, config.support)
        return averaged.q_values_at(hidden_nD, tokens_nK).masked_fill(~inside_nK, -torch.inf).amax(-1)

    def _floor(self, model: TokenQModel) -> float:
        """Where tokens that the data lack are pulled, as a share of the range."""
        lowest = self.config.minimum_return
        return 0.0 if lowest is None else (lowest - model.returns.low) / model.returns.width

    def _values(
        self, model: TokenQModel, hidden_MD: Tensor, tokens_M: Tensor, targets_M: Tensor, floor: float
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted temporal difference and conservative term, and what they are made of."""
        config, values = self.config, model.values
        sampled_S: Tensor | None = None
        if config.conservative_weight and config.conservative_samples:
            sampled_S = torch.randint(model.vocabulary, (config.conservative_samples,), device=tokens_M.device)
        errors: list[Tensor] = []
        pulls: list[Tensor] = []
        taken_values: list[Tensor] = []

        def chunk_loss(part_mD: Tensor, rows: slice) -> Tensor:
            tokens_m1 = tokens_M[rows, None]
            if not config.conservative_weight:
                logits, index_m1, exists = model.q_logits_at(part_mD, tokens_m1), torch.zeros_like(tokens_m1), None
            elif sampled_S is None:
                logits, index_m1, exists = model.q_logits(part_mD), tokens_m1, None
            else:
                said, others = model.q_logits_at(part_mD, tokens_m1), model.q_logits_at_shared(part_mD, sampled_S)
                logits, index_m1 = torch.cat([said, others], dim=1), torch.zeros_like(tokens_m1)
                exists = torch.cat([torch.ones_like(tokens_m1, dtype=torch.bool), sampled_S != tokens_m1], dim=1)
            taken = take_tokens(logits.unsqueeze(1), index_m1).squeeze(1)
            error = values.loss(taken, targets_M[rows]).sum()
            pull = self._pull(values, model.returns, logits, index_m1, exists, floor)
            errors.append(error.detach())
            pulls.append(pull.detach())
            with torch.no_grad():
                taken_values.append(values.values(taken).sum())
            return 0.5 * config.td_weight * error + config.conservative_weight * pull

        looked_at = 1 if sampled_S is None else 1 + len(sampled_S)
        if config.conservative_weight and sampled_S is None:
            looked_at = model.vocabulary
        rows = chunk_rows(looked_at * math.prod(values.atom_shape), self.chunk_elements)
        loss = chunked_sum(chunk_loss, hidden_MD, model.q_parameters(), rows=rows) / len(tokens_M)
        means = {
            name: torch.stack(sums).sum() / len(tokens_M)
            for name, sums in {"td": errors, "conservative": pulls, "value": taken_values}.items()
        }
        means["value"] = model.returns.from_unit(means["value"])
        return loss, {**means, "target": model.returns.from_unit(targets_M.mean())}

    def _pull(
        self,
        values: ValueTransform,
        returns: ReturnRange,
        logits: Tensor,
        index_m1: Tensor,
        exists: Tensor | None,
        floor: float,
    ) -> Tensor:
        """Sum over m decisions of what values of other tokens than that of the data cost; logits `[m, K, *atoms]`."""
        if not self.config.conservative_weight:
            return logits.new_zeros(())
        if self.config.conservative == "softmax":
            # Each critic is pulled on its own, as each is trained on its own prediction.
            base, critics = (values.base, values.critics) if isinstance(values, LeastOf) else (values, 1)
            scores_mVC = returns.from_unit(base.values(logits)).reshape(*logits.shape[:2], critics)
            loss = functional.cross_entropy(scores_mVC, index_m1.expand(-1, critics), reduction="sum") / critics
            # ILQL's errors are in returns, ours in shares of their range: the squares of theirs are so much greater.
            return loss / returns.width**2
        penalties_mK = values.loss(logits, torch.full((), floor, device=logits.device))
        mask = None if exists is None else exists.unsqueeze(1)
        return 0.5 * len(logits) * off_data_mean(penalties_mK.unsqueeze(1), index_m1, token_mask_AK=mask)

    def _expectile_loss(self, model: TokenQModel, hidden_MD: Tensor, targets_M: Tensor) -> Tensor:
        """Asymmetric loss whose minimiser is an expectile of the values of the data's tokens (IQL, equation 5)."""
        logits = model.state_logits(hidden_MD)
        above_M = targets_M > model.state_transform.values(logits.detach())
        weights_M = torch.where(above_M, self.config.expectile, 1.0 - self.config.expectile)
        return model.state_transform.loss(logits, targets_M, weights_M).mean()


def encoded(model: TokenQModel, batch: TextBatch) -> Tensor:
    """Hidden states `[P, D]` of every position of the batch, its R rows one after the other."""
    # No real token attends to padding on the right, and without a mask attention takes its fastest path.
    mask_BL = batch.attention_mask if batch.padding == "left" else None
    return model.encode(batch.input_ids, mask_BL).flatten(0, 1)


def states_of(model: TokenQModel, batch: TextBatch) -> Tensor:
    """Hidden states `[N, D]` in which the policy decides."""
    return encoded(model, batch)[batch.states]


def observations_of(batch: TextBatch) -> tuple[Tensor, Tensor]:
    """Where someone else speaks next, as places int64 `[O]` among the P positions, and what is said there.

    Of the B texts only: those that some of them go on in say the same again.
    """
    attention_BL = batch.attention_mask[: len(batch)]
    others_BL = functional.pad(attention_BL[:, 1:] & attention_BL[:, :-1], (0, 1))
    # The texts come first, so that a place of theirs is the same with and without the rows after them.
    others_P = others_BL.flatten().index_fill(0, batch.states[batch.labels >= 0], False)
    places_O = others_P.nonzero()[:, 0]
    return places_O, batch.input_ids.flatten()[places_O + 1]
