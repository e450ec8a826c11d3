"""The Q-Transformer objective: windows -> targets of every action token -> loss.

Legend: B batch, M bootstrap horizons, A action tokens of one decision (laid out by `qseq.robot.token_order`), P tokens
of a prefix, K bins, D width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor, nn

from qseq.actions import ActionTokenizer
from qseq.episodes import WindowBatch, WindowSpec
from qseq.networks.head import HeadConfig
from qseq.networks.likelihood import among_existing, negative_log_likelihood
from qseq.networks.text import Instruction
from qseq.policies.endings import EndingBatch
from qseq.policies.windows import decision_steps, decision_tokens_of, frames_of, observation_after, observation_at
from qseq.robot.matching import matching_loss, rows_to_match
from qseq.robot.mismatched import mismatched
from qseq.robot.objective_config import QObjectiveConfig
from qseq.robot.token_order import TokenSequence, make_token_order
from qseq.training import Losses, Objective, Regenerative
from qseq.values import (
    LeastOf,
    ValueTransform,
    consistency_penalty,
    decision_tokens,
    horizon_values,
    make_value_transform,
    n_step_returns,
    off_data_mean,
    take_tokens,
    token_backup,
)


class TokenQFunction(Protocol):
    """What the objective asks of a network (and of the tables the tests put in its place)."""

    def embed_instructions(self, inputs: Tensor, rows_B: Tensor) -> Instruction:
        """Rows of the data set's instructions, see `PreparedData.instructions`."""

    def see(self, observation: Mapping[str, Tensor], instruction: Instruction) -> Mapping[str, Tensor]:
        """What the cameras show, for `encode` and `state_values`: their tower runs once for both."""

    def encode(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor] | None = None
    ) -> Tensor: ...

    def decode(self, context_BSD: Tensor, prefix_BP: Tensor) -> Tensor:
        """Logits `[B, P + 1, K, *atom_shape]`: of every bin of each token given the tokens before it."""

    def decode_in_order(self, context_BSD: Tensor, prefix_BP: Tensor, order_BA: Tensor) -> Tensor:
        """The same where position j decides token `order[j]`. For orders other than the tokens' own."""

    def prior_logits(self, context_BSD: Tensor, prefix_BP: Tensor, order_BA: Tensor | None) -> Tensor:
        """Logits `[B, P + 1, K]` of the prior; by position, if an order is given. For prior_weight > 0."""

    def match_logits(self, context_BSD: Tensor) -> Tensor:
        """Logits `[B]` of a state being where the instruction leads, of what `encode` gave. For matching_weight > 0."""

    def state_values(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor]
    ) -> Tensor:
        """Logits `[B, folds, *atom_shape]` of the state's value. For bootstrap="expectile"."""


class QObjective:
    """Token-level temporal difference with a Monte-Carlo lower bound and a conservative regulariser.

    `loss = 1/2 TD + conservative_weight * 1/2 regulariser`, both means over batch and tokens (Q-Transformer, Chebotar
    et al. 2023, sections 4.1 to 4.3), the loss of the state's value with bootstrap="expectile", that of the prior
    with `prior_weight`, and that of matching with `matching_weight`, which is the only one on an `EndingBatch`. The
    regulariser measures the distance to the floor as the temporal difference is measured. The online network encodes
    the observation at t once. With bootstrap="expectile" only the cameras and the small state values of the target
    network run, at t + n; with "max" it encodes the observations at t + n and at t, and its cameras see each distinct
    frame of the window once.

    With `double_q` the online network scores the observation at t + n too, without a gradient but with its dropout:
    what is drawn there decides which bin the target network is asked about, and cannot make it answer more.

    Args:
        tokenizer: actions <-> tokens; a `ChunkTokens` makes h consecutive actions one decision.
        spec: the shape of the windows; with a chunk of h, one horizon h.
        instructions: what the network reads of the data set's instructions, row by instruction id.
        head: that of the network: its critics, and the order of its tokens.
    """

    def __init__(
        self,
        tokenizer: ActionTokenizer,
        spec: WindowSpec,
        config: QObjectiveConfig,
        instructions: Tensor,
        *,
        head: HeadConfig | None = None,
    ) -> None:
        head = head or HeadConfig()
        self.tokenizer = tokenizer
        self.spec = spec
        self.config = config
        self.order = make_token_order(head, tokenizer)
        self.state_value = make_value_transform(**config.value_arguments())
        self.values: ValueTransform = LeastOf(self.state_value) if head.dual_critics else self.state_value
        self.instructions = instructions

    def counts(self, batch: WindowBatch) -> dict[str, Tensor]:
        """Tokens inside the episode; the state's value is a mean over windows."""
        if isinstance(batch, EndingBatch):
            return {"matching": rows_to_match(batch)[1].sum()}
        sequence = self.order.lay_out(*decision_tokens_of(batch, self.tokenizer))
        counts = dict.fromkeys(("temporal_difference", "value_taken", "target"), sequence.weights_BT.sum())
        if self.config.prior_weight:
            counts["imitation"] = sequence.weights_BT.sum()
        if self.config.matching_weight:
            counts["matching"] = rows_to_match(batch)[1].sum()
        if self.config.conservative_weight:
            counts["conservative"] = sequence.chosen_by_data_BT.sum()
        if self.config.consistency_weight:
            counts["inconsistency"] = sequence.weights_BT[:, 1:].sum() + (~batch.bootstrap_terminated).sum()
        return counts

    def loss(self, batch: WindowBatch, online: nn.Module, target: nn.Module | None) -> Losses:
        """See the class. Raises ValueError without a target network."""
        if target is None:
            raise ValueError("Q-learning needs a target network")
        if isinstance(batch, EndingBatch):
            matching = self._matching(cast(TokenQFunction, online), batch)
            total = self.config.matching_weight * matching
            return Losses(total=total, terms={"matching": matching.detach()}, parts={"matching": total})
        as_it_was, batch = batch, self._mismatched(cast(TokenQFunction, target), batch)
        sequence = self.order.lay_out(*decision_tokens_of(batch, self.tokenizer))
        tokens_BA, token_weights_BA = sequence.tokens_BT, sequence.weights_BT
        network = cast(TokenQFunction, online)
        observation, instruction = observation_at(batch, self.spec), self._instructions(network, batch)
        seen = network.see(observation, instruction)
        context_BSD = network.encode(observation, instruction, seen)
        logits = _decode(network, context_BSD, tokens_BA[:, :-1], sequence.order_BT)
        backup = self._backup(batch, cast(TokenQFunction, target), sequence, online=network, online_logits=logits)
        # Tokens beyond the end of an episode have no target (it may be minus infinity) and no weight.
        targets_BA = backup.targets_BA.masked_fill(token_weights_BA == 0, self.config.value_low)
        terms: dict[str, Tensor] = {}
        value_loss: Tensor | float = 0.0
        if self.config.bootstrap == "expectile":
            state_logits = network.state_values(observation, instruction, seen)
            value_loss = self._expectile_loss(state_logits, targets_BA[:, 0], batch.recordings)
            terms["state_value"] = value_loss
            expected_B = _of_own_fold(self.state_value.values(state_logits.detach()), batch.recordings)

        taken = take_tokens(logits, tokens_BA)
        difference = weighted_mean(self.values.loss(taken, targets_BA), token_weights_BA)
        parts = {"temporal_difference": 0.5 * difference}
        terms["temporal_difference"] = difference
        if self.config.prior_weight:
            better_B = targets_BA[:, 0] > expected_B
            logits_BAK = network.prior_logits(context_BSD, tokens_BA[:, :-1], sequence.order_BT)
            imitation = self._imitation(logits_BAK.float(), sequence, better_B)
            parts["imitation"] = self.config.prior_weight * imitation
            terms |= {"imitation": imitation, "imitated": better_B.float().mean()}
        if self.config.matching_weight:
            terms["matching"] = self._matching(network, as_it_was)
            parts["matching"] = self.config.matching_weight * terms["matching"]
        if self.config.conservative_weight:
            floor = torch.full(logits.shape[:3], self.config.value_low, device=logits.device)
            penalty = off_data_mean(
                self.values.loss(logits, floor),
                tokens_BA,
                token_mask_AK=sequence.token_mask,
                token_weights_BA=sequence.chosen_by_data_BT,
            )
            parts["conservative"] = 0.5 * self.config.conservative_weight * penalty
            terms["conservative"] = penalty
        if self.config.consistency_weight:
            inconsistency = self._inconsistency(batch, network, sequence, logits, backup)
            parts["inconsistency"] = self.config.consistency_weight * inconsistency
            terms["inconsistency"] = inconsistency
        terms["value_taken"] = weighted_mean(self.values.values(taken.detach()), token_weights_BA)
        terms["target"] = weighted_mean(targets_BA, token_weights_BA)
        total = value_loss + torch.stack(list(parts.values())).sum()
        return Losses(total=total, terms={name: term.detach() for name, term in terms.items()}, parts=parts)

    def targets(self, batch: WindowBatch, target: TokenQFunction, tokens_BA: Tensor) -> Tensor:
        """Targets `[B, A]` by the one token backup, for tokens in their own order, without an online network."""
        sequence = TokenSequence(
            tokens_BT=tokens_BA,
            weights_BT=torch.ones_like(tokens_BA),
            chosen_by_data_BT=torch.ones_like(tokens_BA),
            token_mask=self.tokenizer.token_mask,
        )
        return self._backup(batch, target, sequence).targets_BA

    @torch.no_grad()
    def _backup(
        self,
        batch: WindowBatch,
        target: TokenQFunction,
        sequence: TokenSequence,
        *,
        online: TokenQFunction | None = None,
        online_logits: Tensor | None = None,
    ) -> Backup:
        """Targets by the one token backup. What is online is asked for its choices with `double_q` only."""
        tokens_BA = sequence.tokens_BT
        returns_BM, discounts_BM = n_step_returns(
            batch.rewards,
            batch.step_mask,
            self.config.discount,
            batch.bootstrap_steps,
            batch.bootstrap_terminated,
        )
        chooser = online if self.config.double_q else None
        expectile = self.config.bootstrap == "expectile"
        instruction = self._instructions(target, batch)
        # The observations at t and at t + 1 share all frames but one.
        seen = {} if expectile else target.see(batch.frames, instruction)
        after = [
            self._value_after(target, batch, index, sequence, chooser, instruction, seen)
            for index in range(len(self.spec.bootstrap_steps))
        ]
        next_BM = torch.stack([values_B for values_B, _ in after], dim=1)
        if expectile:
            # The tokens that were really taken follow: the target of a decision's end is that of all its tokens.
            prefix_values_BA, inside_BA = torch.full(tokens_BA.shape, -torch.inf, device=tokens_BA.device), None
            carry: bool | Tensor = True
        else:
            seen_at = frames_of(seen, self.spec.observation_frames())
            context_BSD = target.encode(observation_at(batch, self.spec), instruction, seen_at)
            logits = _decode(target, context_BSD, tokens_BA[:, :-1], sequence.order_BT)
            prefix_values_BA, inside_BA = self._best(logits, sequence, online_logits if chooser is not None else None)
            carry = self.config.carry
        returns_B, discounts_B, next_B = horizon_values(returns_BM, discounts_BM, next_BM)
        rewards_BA, discounts_BA, next_values_BA = decision_tokens(prefix_values_BA, next_B, returns_B, discounts_B)
        steps = decision_steps(self.tokenizer)
        if steps > 1:
            # A decision cut short by the end of the episode ends at its last real token.
            real_steps_B1 = batch.step_mask.sum(1, keepdim=True).clamp(max=steps)
            last_B1 = real_steps_B1 * (self.tokenizer.num_tokens // steps) - 1
            rewards_BA = rewards_BA.scatter(1, last_B1, returns_B[:, None])
            discounts_BA = discounts_BA.scatter(1, last_B1, discounts_B[:, None])
            next_values_BA = next_values_BA.scatter(1, last_B1, next_B[:, None])
            # Tokens after it are never trained: nothing may be carried back from them.
            carry = torch.arange(self.tokenizer.num_tokens, device=last_B1.device) < last_B1 if carry else False
        bounds_B1 = batch.returns_to_go[:, None] if self.config.monte_carlo_bound else None
        targets_BA = token_backup(rewards_BA, discounts_BA, next_values_BA, bounds_B1, carry=carry)
        return Backup(targets_BA, inside_BA, [choice_B1 for _, choice_B1 in after])

    def _inconsistency(
        self,
        batch: WindowBatch,
        network: TokenQFunction,
        sequence: TokenSequence,
        logits: Tensor,
        backup: Backup,
    ) -> Tensor:
        """The consistency penalty where targets took maxima: inside the decision, and at the states after it."""
        inside_BA = cast(Tensor, backup.inside_BA)
        instruction = self._instructions(network, batch)
        values, chosen, weights = [self.values.values(logits[:, 1:])], [inside_BA[:, 1:]], [sequence.weights_BT[:, 1:]]
        mask = sequence.token_mask
        masks = [] if mask is None else [mask[..., 1:, :].expand(len(batch), -1, -1)]
        for index, choice_B1 in enumerate(backup.after):
            values.append(self.values.values(self._first_logits(network, batch, index, sequence, instruction)))
            chosen.append(cast(Tensor, choice_B1))
            weights.append((~batch.bootstrap_terminated[:, index, None]).float())
            masks += [] if mask is None else [mask[..., :1, :].expand(len(batch), -1, -1)]
        return consistency_penalty(
            torch.cat(values, 1),
            torch.cat(chosen, 1),
            weights_BP=torch.cat(weights, 1),
            token_mask_PK=torch.cat(masks, 1) if masks else None,
        )

    def _instructions(self, network: TokenQFunction, batch: WindowBatch) -> Instruction:
        return network.embed_instructions(self._inputs(batch), batch.instruction_ids)

    def _inputs(self, batch: WindowBatch) -> Tensor:
        self.instructions = self.instructions.to(batch.instruction_ids.device)
        return self.instructions

    def _expectile_loss(self, state_logits: Tensor, targets_B: Tensor, recordings_B: Tensor) -> Tensor:
        """Asymmetric loss whose minimiser is an expectile of the targets (IQL, equation 5), outside each fold."""
        targets_BK = targets_B[:, None].expand(state_logits.shape[:2])
        above_BK = targets_BK > self.state_value.values(state_logits.detach())
        weights_BK = torch.where(above_BK, self.config.expectile, 1.0 - self.config.expectile)
        folds = state_logits.shape[1]
        if folds > 1:
            weights_BK = weights_BK * (
                torch.arange(folds, device=recordings_B.device) != (recordings_B % folds)[:, None]
            )
        return self.state_value.loss(state_logits, targets_BK, weights_BK).sum(1).mean() / max(folds - 1, 1)

    def _imitation(self, logits_BAK: Tensor, sequence: TokenSequence, better_B: Tensor) -> Tensor:
        """Negative log-likelihood of the tokens of the better decisions; the mean is over those of all."""
        likelihood_BA = negative_log_likelihood(among_existing(logits_BAK, sequence.token_mask), sequence.tokens_BT)
        return weighted_mean(likelihood_BA * better_B[:, None], sequence.weights_BT)

    def _matching(self, network: TokenQFunction, batch: WindowBatch) -> Tensor:
        return matching_loss(network, batch, self.spec, self._inputs(batch), alike=self.config.alike_share)

    def _mismatched(self, network: TokenQFunction, batch: WindowBatch) -> WindowBatch:
        if not self.config.mismatched_share:
            return batch
        share, alike, judge = self.config.mismatched_share, self.config.alike_share, self.config.matching_weight > 0
        return mismatched(network, batch, self.spec, self._inputs(batch), share=share, alike=alike, judge=judge)

    def _value_after(
        self,
        network: TokenQFunction,
        batch: WindowBatch,
        index: int,
        sequence: TokenSequence,
        chooser: TokenQFunction | None,
        instruction: Instruction,
        seen: Mapping[str, Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """Value `[B]` of the state reached at a horizon, and the bin `[B, 1]` of the next decision it stands for.

        `instruction` is what the network made of the batch's, `seen` what its cameras saw in each frame of the window,
        not needed with bootstrap="expectile".
        """
        if self.config.bootstrap == "expectile":
            observation = observation_after(batch, self.spec, index)
            seen_after = network.see(observation, instruction)
            values_BK = self.state_value.values(network.state_values(observation, instruction, seen_after))
            return _of_own_fold(values_BK, batch.recordings), None
        logits = self._first_logits(network, batch, index, sequence, instruction, seen)
        by = None
        if chooser is not None:
            by = self._first_logits(chooser, batch, index, sequence, self._instructions(chooser, batch))
        best_B1, choice_B1 = self._best(logits, sequence, by)
        return best_B1[:, 0], choice_B1

    def _first_logits(
        self,
        network: TokenQFunction,
        batch: WindowBatch,
        index: int,
        sequence: TokenSequence,
        instruction: Instruction,
        seen: Mapping[str, Tensor] | None = None,
    ) -> Tensor:
        """Logits `[B, 1, K, *atom_shape]` of the next decision's first token, at a horizon."""
        observation = observation_after(batch, self.spec, index)
        seen_after = None if seen is None else frames_of(seen, self.spec.bootstrap_frames(index))
        context_BSD = network.encode(observation, instruction, seen_after)
        no_tokens_B0 = torch.empty((len(batch), 0), dtype=torch.long, device=context_BSD.device)
        return _decode(network, context_BSD, no_tokens_B0, sequence.order_BT)

    def _best(self, logits: Tensor, sequence: TokenSequence, by: Tensor | None) -> tuple[Tensor, Tensor]:
        """Values `[B, P]` of the best bins that exist, and these bins, int64 `[B, P]`: the best `by` other logits."""
        values_BPK = self.values.values(logits)
        choose_by_BPK = values_BPK if by is None else self.values.values(by)
        if sequence.token_mask is not None:
            mask = sequence.token_mask.to(values_BPK.device)[..., : values_BPK.shape[1], :]
            choose_by_BPK = choose_by_BPK.masked_fill(~mask, -torch.inf)
        choice_BP = choose_by_BPK.argmax(-1)
        return values_BPK.gather(-1, choice_BP.unsqueeze(-1)).squeeze(-1), choice_BP


@dataclass(frozen=True)
class Backup:
    """Targets, and the bins whose values they were made of; no bins with bootstrap="expectile"."""

    targets_BA: Tensor
    inside_BA: Tensor | None
    """int64: after the tokens before j, the best bin of token j. The target of token j - 1 was made of it."""
    after: Sequence[Tensor | None]
    """Of each horizon, int64 `[B, 1]`: the best first bin of the next decision."""


def _of_own_fold(values_BK: Tensor, recordings_B: Tensor) -> Tensor:
    """Of each state the value `[B]` by the network that was not trained on its episode."""
    return values_BK.gather(1, (recordings_B % values_BK.shape[1])[:, None])[:, 0]


def _decode(network: TokenQFunction, context_BSD: Tensor, prefix_BP: Tensor, order_BA: Tensor | None) -> Tensor:
    if order_BA is None:
        return network.decode(context_BSD, prefix_BP)
    return network.decode_in_order(context_BSD, prefix_BP, order_BA)


def weighted_mean(values_BA: Tensor, weights_BA: Tensor) -> Tensor:
    """Mean over the tokens that count."""
    return (values_BA * weights_BA).sum() / weights_BA.sum()


def make_objective(
    config: QObjectiveConfig, tokenizer: ActionTokenizer, spec: WindowSpec, instructions: Tensor, head: HeadConfig
) -> Objective:
    """`QObjective`, with the pull to the initial weights if asked for."""
    objective = QObjective(tokenizer, spec, config, instructions, head=head)
    return Regenerative(objective, config.regenerative_weight) if config.regenerative_weight else objective
