"""Tiny random language models and tokenizers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

ARCHITECTURES = ("gpt2", "llama", "qwen2")


def tiny(
    architecture: str = "gpt2", *, vocabulary: int = 7, width: int = 32, seed: int = 0, **settings: Any
) -> nn.Module:
    """A causal language model: tokens 0 pad, 1 end, 2 start."""
    torch.manual_seed(seed)
    sizes: dict[str, Any] = {"hidden_size": width, "num_hidden_layers": 2, "num_attention_heads": 2}
    sizes |= {"max_position_embeddings": 64}
    if architecture != "gpt2":
        sizes |= {"intermediate_size": 64, "num_key_value_heads": 1}
    config = AutoConfig.for_model(
        architecture, **sizes, vocab_size=vocabulary, bos_token_id=2, eos_token_id=1, pad_token_id=0, **settings
    )
    return AutoModelForCausalLM.from_config(config)


def larger_weights(model: nn.Module) -> nn.Module:
    """Fresh models say nearly the same in every state; these do not."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(8.0)
    return model
