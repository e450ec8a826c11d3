"""What a run of the language family gives: a policy that answers texts and conversations.

Legend: B batch, L length, D width of the trunk.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

import qseq
from qseq.errors import RequestError
from qseq.files import write_atomic
from qseq.language.encoding import TextEncoder
from qseq.language.model import QLanguageModel
from qseq.language.rescoring import best_of_each
from qseq.language.tokenizers import load_tokenizer
from qseq.policies.locate import DESCRIPTION, locate_policy, read_description

KIND = "qrlhf"
Prompt = str | Sequence[Mapping[str, str]]
"""A text, or a conversation whose next message is the policy's."""


class LanguagePolicy:
    """Answers by the model's guided logits, with the tokens of its tokenizer.

    Args:
        model: in eval mode.
        end: tokens that end an answer. max_length: longest text the model reads.
        sample: draw tokens, else take the best. temperature: of drawing.
        beams: search by so many beams.
        best_of: draw so many answers and take the one whose last token has the greatest Q.
        max_new_tokens: longest answer.
        batch_size: prompts answered together.
        seed: of drawing.
        guidance: fields of `GuidanceConfig`, in place of those the model was trained with.

    Raises:
        RequestError: options that do not go together.
    """

    kind: ClassVar[str] = KIND

    def __init__(
        self,
        model: QLanguageModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        end: Sequence[int] = (),
        max_length: int | None = None,
        sample: bool = True,
        temperature: float = 1.0,
        beams: int = 1,
        best_of: int = 1,
        max_new_tokens: int = 64,
        batch_size: int = 64,
        seed: int = 0,
        **guidance: Any,
    ) -> None:
        if best_of > 1 and not sample:
            raise RequestError(f"best_of: found {best_of} without sampling, which gives one answer again and again")
        if temperature <= 0:
            raise RequestError(f"temperature: found {temperature}, expected more than 0; sample=False takes the best")
        self.model = model.guided(**guidance).eval()  # type: ignore[no-untyped-call]
        self.tokenizer = tokenizer
        self.end = list(end) or [tokenizer.eos_token_id]
        stored = model.generation_config.eos_token_id
        # Chat models may end a turn with another token than a text.
        own = stored if isinstance(stored, list) else [stored]
        self.ends = {tokenizer.eos_token_id, self.end[-1], *(token for token in own if token is not None)}
        self.max_length = max_length or getattr(model.config.text_config, "max_position_embeddings", None) or 2**31
        self.sample, self.temperature = sample, temperature
        self.beams, self.best_of = beams, best_of
        self.max_new_tokens, self.batch_size = max_new_tokens, batch_size
        self.encoder = TextEncoder(tokenizer, max_length=self.max_length)
        self.seed(seed)

    def seed(self, seed: int) -> None:
        """Fix what is drawn from here on."""
        self._generator = torch.Generator().manual_seed(seed)

    def respond(self, prompts: Sequence[Prompt]) -> list[str]:
        """The policy's answer to each prompt.

        Raises:
            RequestError: a prompt fills the model's context, or a conversation without a chat template.
        """
        tokens = [self._tokens(prompt) for prompt in prompts]
        # Prompts of like lengths together: little padding.
        order = sorted(range(len(tokens)), key=lambda place: len(tokens[place]))
        answers: dict[int, str] = {}
        for start in range(0, len(order), self.batch_size):
            places = order[start : start + self.batch_size]
            answers |= dict(zip(places, self._answer([tokens[place] for place in places]), strict=True))
        return [answers[place] for place in range(len(tokens))]

    def _tokens(self, prompt: Prompt) -> list[int]:
        as_text = isinstance(prompt, str)
        found = self.encoder.prompt_tokens(prompt) if as_text else self.encoder.conversation_tokens(prompt)  # type: ignore[arg-type]
        if len(found) >= self.max_length:
            raise RequestError(f"prompt: found {len(found)} tokens, expected fewer than {self.max_length}")
        return found

    @torch.no_grad()
    def _answer(self, prompts: Sequence[list[int]]) -> list[str]:
        device = self.model.language_VD.device
        ids_BL, mask_BL = pad_left(prompts, fill=self.tokenizer.pad_token_id or 0)
        length = ids_BL.shape[1]
        seed = int(torch.randint(2**62, (), generator=self._generator))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            whole_BL = self.model.generate(
                ids_BL.to(device),
                attention_mask=mask_BL.to(device),
                do_sample=self.sample,
                # Only what we say: a model's own generation settings would cut the distribution once more.
                **({"temperature": self.temperature, "top_k": 0, "top_p": 1.0} if self.sample else {}),
                num_beams=self.beams,
                num_return_sequences=self.best_of,
                max_new_tokens=min(self.max_new_tokens, self.max_length - length),
                eos_token_id=sorted(self.ends),
                pad_token_id=self.tokenizer.pad_token_id,
            )
        if self.best_of > 1:
            mask = mask_BL.to(device).repeat_interleave(self.best_of, 0)
            whole_BL = best_of_each(self.model, whole_BL, mask, candidates=self.best_of, ends=self.ends)
        return [self._text(answer) for answer in whole_BL[:, length:].tolist()]

    def _text(self, tokens: list[int]) -> str:
        for end in self.ends:
            if end in tokens:
                tokens = tokens[: tokens.index(end)]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=True))

    def save_pretrained(self, folder: str | Path) -> None:
        """Write model, tokenizer and `policy.json`."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(folder)
        write_policy(self.model, Path(folder), tokenizer=self.tokenizer, end=self.end, max_length=self.max_length)

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        """Load from a run, a policy folder or a Hub repository. No stored code is executed.

        Raises:
            RequestError: there is no policy at `source`.
            DataError: its files are damaged.
        """
        folder = locate_policy(source)
        description = read_description(folder)
        stored = {"end": description["end"], "max_length": description["max_length"]}
        return cls(QLanguageModel.from_pretrained(folder), load_tokenizer(str(folder)), **{**stored, **options})

    def describe(self) -> dict[str, Any]:
        """What it is, as plain data."""
        return {
            "kind": self.kind,
            "trunk": self.model.config.text_config.model_type,
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "beta": self.model.guidance.beta,
        }


def write_policy(
    model: nn.Module, folder: Path, *, tokenizer: PreTrainedTokenizerBase, end: Sequence[int], max_length: int
) -> None:
    """Write all a policy needs beside its weights: `policy.json`, config.json, the tokenizer."""
    description = {"kind": KIND, "qseq": qseq.__version__, "end": list(end), "max_length": max_length}
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=1))
    assert isinstance(model, QLanguageModel)  # the family trains no other
    model.save_description(folder)
    tokenizer.save_pretrained(folder)


def pad_left(prompts: Sequence[list[int]], *, fill: int) -> tuple[Tensor, Tensor]:
    """Tokens int64 `[B, L]` and mask `[B, L]`, True at real ones; padding on the left, as `generate` wants it."""
    length = max(map(len, prompts))
    ids_BL = torch.tensor([[fill] * (length - len(prompt)) + prompt for prompt in prompts])
    mask_BL = torch.tensor([[False] * (length - len(prompt)) + [True] * len(prompt) for prompt in prompts])
    return ids_BL, mask_BL
