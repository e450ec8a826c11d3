"""Best of n: several answers are drawn, and the one that Q thinks most of is taken.

Legend: B answers, L length.
"""

from __future__ import annotations

from collections.abc import Set

import torch
from torch import Tensor

from qseq.language.model import QLanguageModel


@torch.no_grad()
def values_of_answers(model: QLanguageModel, whole_BL: Tensor, prompt_mask_BP: Tensor, *, ends: Set[int]) -> Tensor:
    """What each answer is worth `[B]`: Q of its last token, the return to expect from there on.

    It judges a whole answer where the reward comes at its end, or after it; rewards within it are behind it then.

    Args:
        whole_BL: int64, prompts (padded on the left) and answers.
        prompt_mask_BP: True at the prompts' real tokens; P is their padded length.
        ends: tokens that end an answer; what comes after one does not count.
    """
    prompt = prompt_mask_BP.shape[1]
    answers = whole_BL[:, prompt:]
    ended = torch.isin(answers, torch.tensor(sorted(ends), device=answers.device))
    # Positions up to the first end token, it included.
    said = (ended.cumsum(-1) - ended.long()) == 0
    mask_BL = torch.cat([prompt_mask_BP.bool(), said], dim=1)
    last_B = prompt + said.sum(-1) - 1
    hidden_BLD = model.encode(whole_BL, mask_BL)
    rows = torch.arange(len(whole_BL), device=whole_BL.device)
    return model.q_values_at(hidden_BLD[rows, last_B - 1], whole_BL[rows, last_B][:, None])[:, 0]


def best_of_each(
    model: QLanguageModel, whole_BL: Tensor, prompt_mask_BP: Tensor, *, candidates: int, ends: Set[int]
) -> Tensor:
    """Of each `candidates` consecutive answers the one that is worth most."""
    values_BC = values_of_answers(model, whole_BL, prompt_mask_BP, ends=ends).reshape(-1, candidates)
    best_B = values_BC.argmax(1) + candidates * torch.arange(len(values_BC), device=values_BC.device)
    return whole_BL[best_B]
