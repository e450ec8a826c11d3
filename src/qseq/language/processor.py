"""Values beside a policy that is another model: a logits processor for `generate` of transformers.

Legend: B rows, L length, D width of the trunk, K tokens of the support, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LogitsProcessor

from qseq.configuration import from_dict, to_dict
from qseq.errors import RequestError
from qseq.language.config import GuidanceConfig
from qseq.language.guidance import guide
from qseq.language.model import QLanguageModel
from qseq.language.support import choose_support
from qseq.language.trunk import position_arguments


class QLogitsProcessor(LogitsProcessor):
    """`policy's logits + beta * (Q - V)` within the policy's own support, with Q of `model`.

    `generate` runs it before temperature, top_k and top_p. It reads each new token once, with a cache of its own that
    follows rows where beams move them.

    Args:
        model: reads the same tokens as the policy.
        guidance: `beta` and the support; infinity with do_sample=False is greedy on Q within it. The model's own by
            default.
        pad_token_id: what pads prompts on the left.

    Raises:
        RequestError: at the first token, if the vocabularies differ.
    """

    def __init__(self, model: QLanguageModel, guidance: GuidanceConfig | None = None, *, pad_token_id: int) -> None:
        self.model = model.eval()  # type: ignore[no-untyped-call]
        self.guidance = from_dict(GuidanceConfig, to_dict(guidance)) if guidance is not None else model.guidance
        self.pad_token_id = pad_token_id
        self._cache: Any = None
        self._seen_BL: Tensor | None = None
        self._mask_BL: Tensor | None = None

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Guided scores `[B, V]` for the tokens so far `[B, L]`."""
        if scores.shape[-1] != self.model.vocabulary:
            raise RequestError(
                f"Q model: found {self.model.vocabulary} tokens, expected {scores.shape[-1]} as the policy has"
            )
        hidden_BD = self._read(input_ids)
        tokens_BK, inside_BK = choose_support(scores, self.guidance.support)
        q_BK = self.model.q_values_at(hidden_BD, tokens_BK)
        guided_BV = guide(scores, tokens_BK, inside_BK, q_BK, None, self.guidance.beta)
        # Beams add scores up: they must be those of a distribution.
        return guided_BV.log_softmax(-1).to(scores.dtype)

    def _read(self, input_ids: Tensor) -> Tensor:
        """The Q model's hidden state `[B, D]` after the tokens so far."""
        from transformers import DynamicCache

        rows_B = self._rows_of(input_ids)
        if rows_B is None:
            self._cache = DynamicCache(config=self.model.config.text_config)
            self._mask_BL = _real(input_ids, self.pad_token_id)
            new_BL = input_ids
        else:
            assert self._mask_BL is not None  # rows are found in what was seen
            self._cache.reorder_cache(rows_B)
            one_B1 = torch.ones_like(input_ids[:, :1], dtype=torch.bool)
            self._mask_BL = torch.cat([self._mask_BL[rows_B], one_B1], dim=1)
            new_BL = input_ids[:, -1:]
        self._seen_BL = input_ids
        positions = {
            name: positions_BL[:, -new_BL.shape[1] :]
            for name, positions_BL in position_arguments(self.model.trunk, self._mask_BL).items()
        }
        outputs = self.model.trunk(
            input_ids=new_BL,
            attention_mask=self._mask_BL.long(),
            past_key_values=self._cache,
            use_cache=True,
            **positions,
        )
        hidden_BD: Tensor = outputs.last_hidden_state[:, -1]
        return hidden_BD

    def _rows_of(self, input_ids: Tensor) -> Tensor | None:
        """Which row seen at the last call each row continues; None if one continues none, or nothing was seen."""
        seen_BL = self._seen_BL
        if seen_BL is None or input_ids.shape[1] != seen_BL.shape[1] + 1 or input_ids.device != seen_BL.device:
            return None
        prefixes_BL = input_ids[:, :-1]
        if prefixes_BL.shape == seen_BL.shape and torch.equal(prefixes_BL, seen_BL):
            return torch.arange(len(seen_BL), device=seen_BL.device)
        same_BB = (prefixes_BL[:, None] == seen_BL[None]).all(-1)
        return same_BB.int().argmax(1) if bool(same_BB.any(1).all()) else None


def _real(input_ids: Tensor, pad_token_id: int) -> Tensor:
    """True from the first token on that is not padding."""
    return (input_ids != pad_token_id).cumsum(-1) > 0
