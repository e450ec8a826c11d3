"""Successes shown with an instruction that they do not fulfil (the negatives of LOReL; Nair et al. 2021).

Legend: B batch, N action steps, E rows that may be shown with another instruction.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from qseq.episodes import WindowBatch, WindowSpec
from qseq.robot.matching import Matcher, draw_others, last_state_logits


@torch.no_grad()
def mismatched(
    network: Matcher,
    batch: WindowBatch,
    spec: WindowSpec,
    instructions: Tensor,
    *,
    share: float,
    alike: float,
    judge: bool,
) -> WindowBatch:
    """The batch with another instruction and no reward at the end in a share of the windows that reach a success's end.

    What accomplishes one instruction rarely accomplishes another: pairs of the same pictures that differ in the words
    alone, and in what they are worth, say what the words mean. The other instruction is that of another row, or with
    probability `alike` one of the data's that is most like the own. Where the network's matching head finds (with
    `judge`) that the last state is where the other instruction leads, too, the window stays as it is.

    They end as they did, for nothing. To leave what follows to the value of the last state would be right even where
    the other instruction happens to fit, but a wrong deed would be worth whatever that value errs by, which is enough
    to prefer it to searching on. The return under the other instruction is not known: it bounds no target.
    """
    reached_B = batch.achieved[:, -1]
    drawn_B = reached_B & (torch.rand(len(batch), device=reached_B.device) < share)
    rows_E = drawn_B.nonzero()[:, 0]
    if len(rows_E) == 0:  # sharded training waits for every process to run the network, be it for nothing
        rows_E = rows_E.new_zeros(1)
    own_E = batch.instruction_ids[rows_E]
    told_E = draw_others(batch, instructions, own_E, alike=alike)
    changed_E = drawn_B[rows_E] & (told_E != own_E)
    if judge:
        changed_E = changed_E & (last_state_logits(network, batch, spec, instructions, rows_E, told_E) <= 0)
    changed_B = torch.zeros_like(drawn_B).index_copy(0, rows_E, changed_E)
    instruction_ids = batch.instruction_ids.index_copy(0, rows_E, torch.where(changed_E, told_E, own_E))
    ahead_N = torch.arange(batch.rewards.shape[1], device=reached_B.device)
    last_BN = ahead_N == batch.bootstrap_steps[:, -1:] - 1
    return replace(
        batch,
        instruction_ids=instruction_ids,
        rewards=batch.rewards.masked_fill(changed_B[:, None] & last_BN, 0.0),
        achieved=batch.achieved & ~changed_B[:, None],
        returns_to_go=batch.returns_to_go.masked_fill(changed_B, -torch.inf),
    )
