"""Learning where instructions lead: the classifier of LOReL (Nair et al. 2021) on a Q-function's trunk.

Legend: B batch, E rows whose windows reach the end of a success, J instructions that are looked through, S tokens,
D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from qseq.episodes import WindowBatch, WindowSpec
from qseq.networks.text import Instruction
from qseq.policies.endings import EndingBatch
from qseq.policies.windows import observation_after


class Matcher(Protocol):
    """What matching asks of a network."""

    def embed_instructions(self, inputs: Tensor, rows_B: Tensor) -> Instruction:
        """Rows of the data set's instructions, see `PreparedData.instructions`."""

    def encode(self, observation: Mapping[str, Tensor], instruction: Instruction) -> Tensor:
        """Tokens `[B, S, D]`."""

    def match_logits(self, context_BSD: Tensor) -> Tensor:
        """Logits `[B]` of a state being where the instruction leads, of what `encode` gave."""


def rows_to_match(batch: WindowBatch) -> tuple[Tensor, Tensor]:
    """Rows whose windows reach the end of a success, int64 `[E]`, and a weight for each, `[E]`.

    Of an `EndingBatch` all. Of a batch of all steps no more than an eighth: a little work that keeps what was learnt.
    Without any, one row of weight 0: data-parallel training waits for every gradient.
    """
    achieved_B = batch.achieved[:, -1]
    if isinstance(batch, EndingBatch):
        return torch.arange(len(batch), device=achieved_B.device), torch.ones_like(achieved_B, dtype=torch.float32)
    rows_E = achieved_B.nonzero()[: max(1, len(batch) // 8), 0]
    if len(rows_E) == 0:
        rows_E = achieved_B.new_zeros(1, dtype=torch.long)
    return rows_E, achieved_B[rows_E].float()


def matching_loss(
    network: Matcher, batch: WindowBatch, spec: WindowSpec, instructions: Tensor, *, alike: float = 0.0
) -> Tensor:
    """Cross-entropy of telling whether the last state of an episode is a success of the instruction it is shown with.

    Half of the successes are shown with their own, half with that of another row, which may be the same; a share of
    `alike` of these with one of the data's that are most alike. Failures are shown with their own. `instructions` is
    what the network reads of the data set's, row by id.
    """
    rows_E, weights_E = rows_to_match(batch)
    own_E = batch.instruction_ids[rows_E]
    others_E = draw_others(batch, instructions, own_E, alike=alike)
    achieved_E = batch.achieved[rows_E, -1]
    kept_E = ~achieved_E | (torch.rand(own_E.shape, device=own_E.device) < 0.5)
    told_E = torch.where(kept_E, own_E, others_E)
    logits_E = last_state_logits(network, batch, spec, instructions, rows_E, told_E)
    loss_E = nn.functional.binary_cross_entropy_with_logits(
        logits_E, (achieved_E & (told_E == own_E)).float(), reduction="none"
    )
    return (loss_E * weights_E).sum() / weights_E.sum().clamp(min=1)


def last_state_logits(
    network: Matcher, batch: WindowBatch, spec: WindowSpec, instructions: Tensor, rows_E: Tensor, told_E: Tensor
) -> Tensor:
    """Logits `[E]`, float32, of the last states of some rows being where other instructions (ids `[E]`) lead."""
    last = observation_after(batch, spec, len(spec.bootstrap_steps) - 1)
    instruction = network.embed_instructions(instructions, told_E)
    context_ESD = network.encode({name: frames[rows_E] for name, frames in last.items()}, instruction)
    return network.match_logits(context_ESD).float()


def draw_others(batch: WindowBatch, instructions: Tensor, own_E: Tensor, *, alike: float) -> Tensor:
    """For each instruction another, int64 `[E]`: that of any row, which may be the same, or (`alike`) a similar one."""
    others_E = batch.instruction_ids[torch.randint(len(batch), own_E.shape, device=own_E.device)]
    if not alike:
        return others_E
    near_E = draw_alike(instructions, own_E)
    return torch.where(torch.rand(own_E.shape, device=own_E.device) < alike, near_E, others_E)


def draw_alike(instructions: Tensor, own_E: Tensor, *, among: int = 16, searched: int = 1024) -> Tensor:
    """For each instruction another, int64 `[E]`: one of those that share most with it, of so many random ones.

    Of words, the share that both have of those that either has (Jaccard); of embeddings, the cosine of their means.
    Where there is but one instruction it is its own other.
    """
    searched_J = torch.randperm(len(instructions), device=own_E.device)[:searched]
    own, others = instructions[own_E], instructions[searched_J]
    if instructions.is_floating_point():
        alike_EJ = nn.functional.normalize(own.mean(1)) @ nn.functional.normalize(others.mean(1)).T
    else:
        buckets = int(instructions.max()) + 1
        own_EX, others_JX = _words(own, buckets), _words(others, buckets)
        both_EJ = own_EX @ others_JX.T
        alike_EJ = both_EJ / (own_EX.sum(1, keepdim=True) + others_JX.sum(1) - both_EJ).clamp(min=1)
    # Among equals any: the random part is smaller than what a word makes.
    alike_EJ = alike_EJ + 1e-3 * torch.rand_like(alike_EJ)
    most = min(among, max(1, len(searched_J) - 1))
    nearest_EA = alike_EJ.masked_fill(own_E[:, None] == searched_J, -torch.inf).topk(most).indices
    drawn_E1 = torch.randint(most, (len(own_E), 1), device=own_E.device)
    return searched_J[nearest_EA.gather(1, drawn_E1)[:, 0]]


def _words(hashed_NW: Tensor, buckets: int) -> Tensor:
    """Which words an instruction has, `[N, buckets]`: 1 or 0, without padding."""
    return torch.zeros(len(hashed_NW), buckets, device=hashed_NW.device).scatter_(1, hashed_NW, 1.0)[:, 1:]
