"""Successes shown with instructions that they do not fulfil, as far as the head that matches can tell.

Legend: B batch, N action steps, E rows that are shown with another instruction.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qseq.episodes import WindowBatch, WindowSpec
from qseq.policies.windows import observation_after
from qseq.robot.matching import Matcher, draw_alike


@torch.no_grad()
def mismatched(
    network: Matcher, batch: WindowBatch, spec: WindowSpec, instructions: Tensor, *, share: float, alike: float
) -> WindowBatch:
    """A share of the windows that reach the end of a success, with another instruction and nothing for the end.

    Where the network finds that the last state fits the other instruction, too, the window stays as it is. The
    original is not changed. They end as they did.
    """
    reached_B = batch.achieved[:, -1]
    drawn_B = reached_B & (torch.rand(len(batch), device=reached_B.device) < share)
    rows_E = drawn_B.nonzero()[:, 0]
    if not len(rows_E):
        return batch
    own_E = batch.instruction_ids[rows_E]
    told_E = batch.instruction_ids[torch.randint(len(batch), own_E.shape, device=own_E.device)]
    if alike:
        near_E = draw_alike(instructions, own_E)
        told_E = torch.where(torch.rand(own_E.shape, device=own_E.device) < alike, near_E, told_E)
    last = observation_after(batch, spec, len(spec.bootstrap_steps) - 1)
    instruction = network.embed_instructions(instructions, told_E)
    context_ESD = network.encode({name: frames[rows_E] for name, frames in last.items()}, instruction)
    fits_E = network.match_logits(context_ESD) > 0
    rows_E, told_E = rows_E[(told_E != own_E) & ~fits_E], told_E[(told_E != own_E) & ~fits_E]
    changed_B = torch.zeros_like(drawn_B)
    changed_B[rows_E] = True
    instruction_ids = batch.instruction_ids.clone()
    instruction_ids[rows_E] = told_E
    ahead_N = torch.arange(batch.rewards.shape[1], device=reached_B.device)
    last_BN = ahead_N == batch.bootstrap_steps[:, -1:] - 1
    return replace(
        batch,
        instruction_ids=instruction_ids,
        rewards=batch.rewards.masked_fill(changed_B[:, None] & last_BN, 0.0),
        achieved=batch.achieved & ~changed_B[:, None],
        returns_to_go=batch.returns_to_go.masked_fill(changed_B, -torch.inf),
    )
