"""The two programs of a policy that leave Python: what is seen -> the first token's values, a token -> the next one's.

They run the policy's own network, with its own cache; nothing is computed in another way.

Legend: B batch, F frames of history, W words of an instruction, L blocks of the decoder, H heads, T tokens in the
cache, S observation tokens, E width of a head, A action tokens of a decision, K bins, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from qseq.networks.attention import DecodingCache, LayerCache
from qseq.networks.text import FROZEN, Instruction
from qseq.networks.vision import center_crop
from qseq.observations import is_image
from qseq.policies import TokenPolicy

INSTRUCTION = "instruction"
ENCODER, DECODER = "encoder", "decoder"
_SELF = ("self_keys", "self_values")
_CONTEXT = ("context_keys", "context_values")
_EXAMPLE_BATCH, _EXAMPLE_WORDS = 2, 3  # sizes that dynamic dimensions have while a program is traced


@dataclass(frozen=True)
class Program:
    """A module with all it takes to trace it.

    Attributes:
        inputs, outputs: their names, in order.
        examples: arguments of `module`, tensors and dicts of them.
        dynamic_shapes: for each argument, as `torch.export.export` wants them.
    """

    name: str
    module: nn.Module
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    examples: tuple[Any, ...]
    dynamic_shapes: tuple[Any, ...]


class EncoderProgram(nn.Module):
    """Observation and instruction -> observation tokens, values of the first token's bins, and the filled cache."""

    def __init__(self, policy: TokenPolicy, order: Sequence[int]) -> None:
        super().__init__()
        self.policy, self.network = policy, policy.network
        self.order = order

    def forward(self, observation: dict[str, Tensor], instruction: Tensor | None = None) -> tuple[Tensor, ...]:
        """Fields `[B, F, *shape]`, instruction int64 `[B, W]` or floating `[B, W, E]` -> `[B, S, D]`, `[B, K]`, and
        keys and values of the tokens `[B, L, H, 1, E]` and of the context `[B, L, H, S, E]`, unless A is 1."""
        batch, crop = next(iter(observation.values())).shape[0], self.policy.spec.crop
        shown = {
            name: center_crop(frames, (crop, crop)) if crop and frames.ndim == 5 else frames
            for name, frames in observation.items()
        }
        told: Instruction = (
            self.network.encoder.instruction.null(batch)
            if instruction is None
            else self.network.embed_instructions(instruction)
        )
        context_BSD = self.network.encode(shown, told)
        cache = self.network.decoder.new_cache()
        none_B0 = torch.zeros((batch, 0), dtype=torch.long, device=context_BSD.device)
        values_BK = _values(self.policy, self.order, context_BSD, none_B0, cache)
        if self.network.decoder.num_tokens == 1:
            return context_BSD, values_BK
        return context_BSD, values_BK, *_stacked(cache, _SELF), *_stacked(cache, _CONTEXT)


class DecoderProgram(nn.Module):
    """A token and the cache of those before it -> values of the next token's bins, and the cache with it."""

    def __init__(self, policy: TokenPolicy, order: Sequence[int]) -> None:
        super().__init__()
        self.policy, self.network = policy, policy.network
        self.order = order

    def forward(
        self, token_B: Tensor, self_keys: Tensor, self_values: Tensor, context_keys: Tensor, context_values: Tensor
    ) -> tuple[Tensor, ...]:
        """Int64 `[B]`, the cache as `EncoderProgram` gives it -> `[B, K]`, keys and values `[B, L, H, T + 1, E]`."""
        length = self_keys.shape[3]
        layers = [
            LayerCache(*(tensor[:, layer] for tensor in (self_keys, self_values, context_keys, context_values)))
            for layer in range(self_keys.shape[1])
        ]
        cache = DecodingCache(layers, length)
        # The decoder looks at the last token of a prefix only: what came of the others is in the cache.
        prefix_BP = token_B[:, None].expand(-1, length)
        values_BK = _values(self.policy, self.order, context_keys, prefix_BP, cache)
        return values_BK, *_stacked(cache, _SELF)


def make_programs(policy: TokenPolicy, order: Sequence[int]) -> list[Program]:
    """The encoder and, for decisions of several tokens, the decoder.

    Args:
        order: the tokens of a decision in the order in which they are decided; empty for their own.
    """
    num_tokens = policy.spec.tokenizer.num_tokens
    batch = torch.export.Dim("batch", min=1)
    fields = {
        name: torch.zeros(
            (_EXAMPLE_BATCH, policy.spec.history, *shape),
            dtype=torch.uint8 if is_image(shape) else torch.float32,
        )
        for name, shape in policy.spec.fields.items()
    }
    examples: list[Any] = [fields]
    shapes: list[Any] = [{name: {0: batch} for name in fields}]
    if policy.takes_instructions:
        example, dynamic = _instruction_example(policy)
        examples.append(example)
        shapes.append({0: batch} | dynamic)
    encoder = Program(
        name=ENCODER,
        module=EncoderProgram(policy, order).eval(),
        inputs=(*fields, *((INSTRUCTION,) if policy.takes_instructions else ())),
        outputs=("observation_tokens", "values", *((*_SELF, *_CONTEXT) if num_tokens > 1 else ())),
        examples=tuple(examples),
        dynamic_shapes=tuple(shapes),
    )
    if num_tokens == 1:
        return [encoder]
    with torch.no_grad():
        _, values_BK, *cache = encoder.module(*examples)
    length = min(2, num_tokens - 1)
    grown = {3: torch.export.Dim("length", min=1, max=num_tokens - 1)} if num_tokens > 2 else {}
    keys_values = [part.repeat(1, 1, 1, length, 1) for part in cache[:2]]
    decoder = Program(
        name=DECODER,
        module=DecoderProgram(policy, order).eval(),
        inputs=("token", *_SELF, *_CONTEXT),
        outputs=("values", *(f"new_{name}" for name in _SELF)),
        examples=(values_BK.argmax(-1), *keys_values, *cache[2:]),
        dynamic_shapes=({0: batch}, *[{0: batch} | grown] * 2, *[{0: batch}] * 2),
    )
    return [encoder, decoder]


def _instruction_example(policy: TokenPolicy) -> tuple[Tensor, dict[int, Any]]:
    """What the network reads of an instruction, and which of its dimensions besides the batch may vary."""
    text = policy.spec.network.text
    words = {1: torch.export.Dim("words", min=1)}
    if not text.encoder.startswith(FROZEN):
        return torch.ones(_EXAMPLE_BATCH, _EXAMPLE_WORDS, dtype=torch.long), words
    # Without cross-attention the words of a frozen encoder are averaged before the network sees them.
    width = _EXAMPLE_WORDS if text.cross_attention else 1
    return torch.ones(_EXAMPLE_BATCH, width, text.embed_dim), words if text.cross_attention else {}


def _values(
    policy: TokenPolicy, order: Sequence[int], context: Tensor, prefix_BP: Tensor, cache: DecodingCache
) -> Tensor:
    """What the bins of the next token are chosen by, `[B, K]`; -inf for bins that do not exist."""
    batch, position = prefix_BP.shape
    order_BA = torch.tensor(order).expand(batch, -1) if order else None
    logits = policy.network.decoder(context, prefix_BP, cache, order_BA)
    values_B1K = policy.scores(logits.float())
    mask_AK = policy.spec.tokenizer.token_mask
    if mask_AK is not None:
        mask_AK = mask_AK[list(order)] if order else mask_AK
        values_B1K = values_B1K.masked_fill(~mask_AK[position : position + 1], -torch.inf)
    return values_B1K[:, 0]


def _stacked(cache: DecodingCache, kind: tuple[str, str]) -> list[Tensor]:
    """Keys and values of one kind, of all blocks."""
    return [
        torch.stack([cast(Tensor, getattr(layer, f"{name}_{shape}")) for layer in cache.layers], dim=1)
        for name, shape in zip(kind, ("BHTE",) * 2 if kind is _SELF else ("BHSE",) * 2, strict=True)
    ]
