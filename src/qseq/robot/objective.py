"""The Q-Transformer objective: windows -> targets of every action token -> loss.

Legend: B batch, M bootstrap horizons, A action tokens of one decision, P tokens of a prefix, K bins, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, cast

import torch
from torch import Tensor, nn

from qseq.actions import ActionTokenizer
from qseq.configuration import Fraction, NonNegativeFloat, PositiveInt
from qseq.episodes import WindowBatch, WindowSpec
from qseq.networks.text import Instruction
from qseq.policies.windows import decision_steps, decision_tokens_of, observation_after, observation_at
from qseq.training import Losses
from qseq.values import (
    decision_tokens,
    horizon_values,
    make_value_transform,
    n_step_returns,
    off_data_mean,
    take_tokens,
    token_backup,
)


@dataclass(frozen=True, kw_only=True)
class QObjectiveConfig:
    """What is learnt."""

    discount: Fraction = 0.98
    """Gamma, per step of the environment."""
    bootstrap_steps: tuple[int, ...] = (10,)
    """Horizons n of the n-step return. Of several the best target counts (deterministic worlds only)."""
    bootstrap: Literal["max", "expectile"] = "expectile"
    """What follows a decision is worth: "max", the best bin of the next decision's first token (the paper's backup),
    also between the dimensions of a decision; or "expectile", a value of the state that is learnt from the same
    targets, an upper expectile of what the data's decisions led to (IQL, Kostrikov et al. 2022, section 4). The
    maximum over bins takes the largest error for the best action, which keeps the values of states that lead nowhere
    alive; the expectile looks at actions in the data only. It needs no pass of the target network over actions."""
    expectile: Fraction = 0.7
    """0.5 is the mean over the data's decisions; towards 1, the best of them."""
    value_folds: PositiveInt = 1
    """Networks that learn the value of a state. Of several, each is trained on the episodes outside its fold, and an
    episode bootstraps from the one that has not seen it. One alone learns by heart which episodes failed and calls
    every state of theirs worthless, however good it was: pessimism that serves where successes are many, and hides
    what failures could teach where they are few."""
    monte_carlo_bound: bool = True
    """Targets are at least the return the episode achieved. Biased upward where transitions are stochastic."""
    carry: bool = True
    """With bootstrap="max": inside a decision, a token's target is at least that of the token after it, so a reward
    crosses the whole decision in one backup. Biased upward where transitions are stochastic."""
    conservative_weight: NonNegativeFloat = 4.0
    """Weight of the pull of bins that were not taken towards the least value (1 in the paper). A bin that the data take
    with probability p settles at `target * p / (p + weight / (K - 1))`: the weight says how common an action must be to
    be believed."""
    value: Literal["bounded", "unbounded", "categorical"] = "bounded"
    value_loss: Literal["mse", "bce"] = "bce"
    """Of a bounded value: squared error, or cross-entropy, which has the same minimiser and learns faster, because its
    gradient does not vanish where the value is near its bounds."""
    value_low: float = 0.0
    """Least possible return; also the floor of the conservative regulariser."""
    value_high: float = 1.0
    """Greatest possible return."""
    value_atoms: int = 51
    """Atoms of the categorical value."""
    initial_value: float = 0.05
    """Where Q starts, as a share of the range (bounded values)."""

    @property
    def state_value_networks(self) -> int:
        """How many a network needs for this objective: none where nothing bootstraps from them."""
        return self.value_folds if self.bootstrap == "expectile" else 0

    def value_arguments(self) -> dict[str, Any]:
        """Arguments of `make_value_transform`, as plain data to store with a policy."""
        return {
            "kind": self.value,
            "low": self.value_low,
            "high": self.value_high,
            "loss": self.value_loss,
            "num_atoms": self.value_atoms,
        }


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

    def state_values(
        self, observation: Mapping[str, Tensor], instruction: Instruction, seen: Mapping[str, Tensor]
    ) -> Tensor:
        """Logits `[B, folds, *atom_shape]` of the state's value. For bootstrap="expectile"."""


class QObjective:
    """Token-level temporal difference with a Monte-Carlo lower bound and a conservative regulariser.

    `loss = 1/2 TD + conservative_weight * 1/2 regulariser`, both means over batch and tokens (Q-Transformer, Chebotar
    et al. 2023, sections 4.1 to 4.3), and the loss of the state's value with bootstrap="expectile". The regulariser
    measures the distance to the floor as the temporal difference is measured. The online network encodes the
    observation at t once. With bootstrap="expectile" only the cameras and the small state values of the target
    network run, at t + n; with "max" it encodes the observations at t + n and at t.

    Args:
        tokenizer: actions <-> tokens; a `ChunkTokens` makes h consecutive actions one decision.
        spec: the shape of the windows; with a chunk of h, one horizon h.
        instructions: what the network reads of the data set's instructions, row by instruction id.
    """

    def __init__(
        self, tokenizer: ActionTokenizer, spec: WindowSpec, config: QObjectiveConfig, instructions: Tensor
    ) -> None:
        self.tokenizer = tokenizer
        self.spec = spec
        self.config = config
        self.values = make_value_transform(**config.value_arguments())
        self.instructions = instructions

    def loss(self, batch: WindowBatch, online: nn.Module, target: nn.Module | None) -> Losses:
        """See the class. Raises ValueError without a target network."""
        if target is None:
            raise ValueError("Q-learning needs a target network")
        tokens_BA, token_weights_BA = decision_tokens_of(batch, self.tokenizer)
        network = cast(TokenQFunction, online)
        observation, instruction = observation_at(batch, self.spec), self._instructions(network, batch)
        seen = network.see(observation, instruction)
        context_BSD = network.encode(observation, instruction, seen)
        targets_BA = self.targets(batch, cast(TokenQFunction, target), tokens_BA)
        # Tokens beyond the end of an episode have no target (it may be minus infinity) and no weight.
        targets_BA = targets_BA.masked_fill(token_weights_BA == 0, self.config.value_low)
        logits = network.decode(context_BSD, tokens_BA[:, :-1])
        terms: dict[str, Tensor] = {}
        value_loss: Tensor | float = 0.0
        if self.config.bootstrap == "expectile":
            state_logits = network.state_values(observation, instruction, seen)
            value_loss = self._expectile_loss(state_logits, targets_BA[:, 0], batch.recordings)
            terms["state_value"] = value_loss

        taken = take_tokens(logits, tokens_BA)
        difference = weighted_mean(self.values.loss(taken, targets_BA), token_weights_BA)
        total = 0.5 * difference + value_loss
        terms["temporal_difference"] = difference
        if self.config.conservative_weight:
            floor = torch.full(logits.shape[:3], self.config.value_low, device=logits.device)
            penalty = off_data_mean(
                self.values.loss(logits, floor),
                tokens_BA,
                token_mask_AK=self._token_mask(logits.device),
                token_weights_BA=token_weights_BA,
            )
            total = total + 0.5 * self.config.conservative_weight * penalty
            terms["conservative"] = penalty
        terms["value_taken"] = weighted_mean(self.values.values(taken.detach()), token_weights_BA)
        terms["target"] = weighted_mean(targets_BA, token_weights_BA)
        return Losses(total=total, terms={name: term.detach() for name, term in terms.items()})

    @torch.no_grad()
    def targets(self, batch: WindowBatch, target: TokenQFunction, tokens_BA: Tensor) -> Tensor:
        """Targets `[B, A]` by the one token backup."""
        returns_BM, discounts_BM = n_step_returns(
            batch.rewards,
            batch.step_mask,
            self.config.discount,
            batch.bootstrap_steps,
            batch.bootstrap_terminated,
        )
        next_BM = torch.stack(
            [self._value_after(target, batch, index) for index in range(len(self.spec.bootstrap_steps))], dim=1
        )
        prefix_values_BA, carry = self._inside(target, batch, tokens_BA)
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
        return token_backup(rewards_BA, discounts_BA, next_values_BA, bounds_B1, carry=carry)

    def _instructions(self, network: TokenQFunction, batch: WindowBatch) -> Instruction:
        self.instructions = self.instructions.to(batch.instruction_ids.device)
        return network.embed_instructions(self.instructions, batch.instruction_ids)

    def _inside(self, target: TokenQFunction, batch: WindowBatch, tokens_BA: Tensor) -> tuple[Tensor, bool | Tensor]:
        """What follows inside a decision: values `[B, A]` of each prefix, and whether targets are carried."""
        if self.config.bootstrap == "expectile":
            # The tokens that were really taken follow: the target of a decision's end is that of all its tokens.
            return torch.full(tokens_BA.shape, -torch.inf, device=tokens_BA.device), True
        context_BSD = target.encode(observation_at(batch, self.spec), self._instructions(target, batch))
        return self._best(self.values.values(target.decode(context_BSD, tokens_BA[:, :-1]))), self.config.carry

    def _expectile_loss(self, state_logits: Tensor, targets_B: Tensor, recordings_B: Tensor) -> Tensor:
        """Asymmetric loss whose minimiser is an expectile of the targets (IQL, equation 5), outside each fold."""
        targets_BK = targets_B[:, None].expand(state_logits.shape[:2])
        above_BK = targets_BK > self.values.values(state_logits.detach())
        weights_BK = torch.where(above_BK, self.config.expectile, 1.0 - self.config.expectile)
        folds = state_logits.shape[1]
        if folds > 1:
            weights_BK = weights_BK * (
                torch.arange(folds, device=recordings_B.device) != (recordings_B % folds)[:, None]
            )
        return self.values.loss(state_logits, targets_BK, weights_BK).sum(1).mean() / max(folds - 1, 1)

    def _value_after(self, network: TokenQFunction, batch: WindowBatch, index: int) -> Tensor:
        """Value `[B]` of the state reached at a horizon."""
        observation, instruction = observation_after(batch, self.spec, index), self._instructions(network, batch)
        if self.config.bootstrap == "expectile":
            seen = network.see(observation, instruction)
            values_BK = self.values.values(network.state_values(observation, instruction, seen))
            return values_BK.gather(1, (batch.recordings % values_BK.shape[1])[:, None])[:, 0]
        context_BSD = network.encode(observation, instruction)
        no_tokens_B0 = torch.empty((len(batch), 0), dtype=torch.long, device=context_BSD.device)
        return self._best(self.values.values(network.decode(context_BSD, no_tokens_B0)))[:, 0]

    def _best(self, values_BPK: Tensor) -> Tensor:
        """Maximum over the bins that exist: `[B, P, K]` -> `[B, P]`."""
        mask_AK = self._token_mask(values_BPK.device)
        if mask_AK is not None:
            values_BPK = values_BPK.masked_fill(~mask_AK[: values_BPK.shape[1]], -torch.inf)
        return values_BPK.amax(-1)

    def _token_mask(self, device: torch.device) -> Tensor | None:
        mask_AK = self.tokenizer.token_mask
        return None if mask_AK is None else mask_AK.to(device)


def weighted_mean(values_BA: Tensor, weights_BA: Tensor) -> Tensor:
    """Mean over the tokens that count."""
    return (values_BA * weights_BA).sum() / weights_BA.sum()
