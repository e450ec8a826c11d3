"""The language model under the heads: loaded, or built anew, and made ready to carry values."""

from __future__ import annotations

from inspect import signature
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerBase
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from qseq.errors import ConfigError, RequestError
from qseq.language.config import LanguageModelConfig, LoraConfig

NEW_MODEL = {
    "hidden_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
}
"""Of a model that is built anew, unless model.settings says otherwise."""

_SCALED = {"final_logit_softcapping": None, "logit_scale": 1.0, "logits_scaling": 1.0}
"""Settings that change logits after the head, and what leaves them as they are."""


def load_language_model(config: LanguageModelConfig, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """The causal language model that `config` names, in float32 or bfloat16. No stored code is executed.

    Raises:
        RequestError: there is none at `config.path`.
        ConfigError: transformers knows no such architecture.
    """
    dtype = getattr(torch, config.dtype)
    if config.path:
        try:
            model = AutoModelForCausalLM.from_pretrained(config.path, dtype=dtype)
        except (OSError, ValueError) as error:
            why = str(error).strip().splitlines()[0]
            raise RequestError(f"model.path: found no causal language model at '{config.path}' ({why})") from error
        return checked_trunk(model)
    make: Any = AutoModelForCausalLM.from_config
    return checked_trunk(make(new_config(config, tokenizer), dtype=dtype))


def new_config(config: LanguageModelConfig, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The configuration of a new model, for the tokens of `tokenizer`."""
    if config.architecture not in CONFIG_MAPPING:
        raise ConfigError(
            f"model.architecture: found '{config.architecture}', expected a model type of transformers, "
            "such as gpt2, llama or qwen2"
        )
    probe = AutoConfig.for_model(config.architecture)
    aliases = {alias: name for name, alias in getattr(probe, "attribute_map", {}).items()}
    settings = {aliases.get(name, name): value for name, value in config.settings.items()}
    sizes = {**NEW_MODEL, **settings}
    # The defaults of these belong to another width.
    if hasattr(probe, "num_key_value_heads"):
        sizes.setdefault("num_key_value_heads", sizes["num_attention_heads"])
    if getattr(probe, "intermediate_size", None) is not None:
        sizes.setdefault("intermediate_size", 4 * int(sizes["hidden_size"]))
    return AutoConfig.for_model(
        config.architecture,
        **sizes,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def checked_trunk(model: Any) -> nn.Module:
    """`model` without dropout: values are targets of one another, and noise in them would be learnt.

    Raises:
        RequestError: its logits are not a plain product of hidden states and rows of a head.
    """
    if type(model).__module__.startswith("peft."):
        raise RequestError(
            "model: found adapters of peft around it, expected the model itself; ask for adapters by model.lora.rank"
        )
    head = model.get_output_embeddings()
    if head is None or not isinstance(getattr(head, "weight", None), Tensor):
        raise RequestError(f"model: found {type(model).__name__}, expected a causal language model with a linear head")
    for name, harmless in _SCALED.items():
        if getattr(model.config, name, harmless) not in (harmless, None):
            raise RequestError(
                f"model: found {name}={getattr(model.config, name)}, expected a model whose logits are those of its "
                "head; such models are not supported"
            )
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith(("dropout", "pdrop", "dropout_p")) and isinstance(value, float):
                setattr(module, name, 0.0)
    trunk: nn.Module = model
    return trunk


def add_adapters(model: nn.Module, lora: LoraConfig) -> None:
    """Put low-rank adapters into `model`, in place, and freeze all else.

    Raises:
        RequestError: peft is not installed, or finds no such layers.
    """
    try:
        from peft import LoraConfig as PeftLoraConfig
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise RequestError("model.lora: found no peft, expected it installed: pip install 'qseq[language]'") from error
    try:
        inject_adapter_in_model(
            PeftLoraConfig(
                r=lora.rank,
                lora_alpha=cast(int, lora.alpha),  # any number does
                target_modules=list(lora.target_modules) or None,
                fan_in_fan_out=False,
                task_type="CAUSAL_LM",
            ),
            model,
        )
    except ValueError as error:
        raise RequestError(f"model.lora.target_modules: {' '.join(str(error).split())}") from error
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def takes_positions(trunk: nn.Module) -> bool:
    """Whether the trunk lets us say at which position each token stands."""
    return "position_ids" in signature(trunk.forward).parameters


def position_arguments(trunk: nn.Module, attention_mask_BL: Tensor) -> dict[str, Tensor]:
    """Positions that count real tokens only, where the trunk lets us say them: padding may stand on the left."""
    if not takes_positions(trunk):
        return {}
    return {"position_ids": (attention_mask_BL.long().cumsum(-1) - 1).clamp_min(0)}
