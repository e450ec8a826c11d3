"""A causal language model with values: one trunk, the policy's logits and Q for every token.

Legend: B batch, L length, N states, K tokens, S tokens asked about in every state, V vocabulary, D width of the trunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import CausalLMOutputWithPast

from qseq.configuration import from_dict, to_dict
from qseq.errors import DataError, QseqError, RequestError
from qseq.language.config import GuidanceConfig, LanguageModelConfig, LoraConfig, TextObjectiveConfig
from qseq.language.guidance import guide
from qseq.language.heads import DuelingRows, LinearRows, QHead, TiedRows, TokenRows
from qseq.language.support import choose_support
from qseq.language.trunk import add_adapters, checked_trunk, position_arguments, takes_positions
from qseq.language.values import ReturnRange
from qseq.policies.locate import WEIGHTS
from qseq.training import latest_checkpoint, load_weights, save_tensors, tensors_of
from qseq.values import LeastOf, ValueTransform, make_value_transform

_GUIDANCE = tuple(field.name for field in fields(GuidanceConfig))
_AUTO = ("config", "trust_remote_code", "adapter_kwargs", "revision", "token", "local_files_only")
"""What AutoModelForCausalLM hands on and means nothing for files that are here."""


class QLanguageConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """What `QLanguageModel` is made of, as transformers stores it in config.json."""

    model_type = "qseq_language"
    sub_configs_defaults = {"text_config": SubConfigSpec(config_class=AutoConfig, model_type="gpt2")}  # noqa: RUF012

    text_config: dict | PreTrainedConfig | None = None  # type: ignore[type-arg]
    """Of the causal language model."""
    lora: dict | None = None  # type: ignore[type-arg]
    """Fields of `LoraConfig`."""
    rows: str = "linear"
    dueling: bool = False
    twin_critics: bool = False
    state_value: bool = False
    average_trunk: bool = False
    learns_values: bool = True
    """False of imitation: there are no heads."""
    value: dict | None = None  # type: ignore[type-arg]
    """Arguments of `make_value_transform`, for values as shares of the range."""
    initial_value: float = 0.1
    minimum_return: float = 0.0
    maximum_return: float = 1.0
    """The range of returns."""
    guidance: dict | None = None  # type: ignore[type-arg]
    """Fields of `GuidanceConfig`."""


class QLanguageModel(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """The language model, its Q head and, for expectiles, a head for the value of a state.

    `forward` returns the policy's logits plus `beta * (Q - V)` within the policy's own support, so `generate` of
    transformers decodes with values: one pass of the trunk and one cache a token, sampled, greedy or by beams.

    Args:
        language_model: built from config.text_config if None.
    """

    config_class = QLanguageConfig
    base_model_prefix = "language_model"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: QLanguageConfig, language_model: nn.Module | None = None) -> None:
        super().__init__(config)
        if language_model is None:
            make: Any = AutoModelForCausalLM.from_config
            language_model = checked_trunk(make(config.text_config))
        self.language_model: Any = language_model
        if config.lora is not None:
            add_adapters(language_model, from_dict(LoraConfig, config.lora))
        self.returns = ReturnRange(config.minimum_return, config.maximum_return)
        self.state_transform = make_value_transform(**(config.value or {"kind": "bounded"}))
        self.values: ValueTransform = LeastOf(self.state_transform) if config.twin_critics else self.state_transform
        self.guidance = from_dict(GuidanceConfig, config.guidance or {})
        weight_VD = self.language_VD
        vocabulary, width = weight_VD.shape
        self.vocabulary = vocabulary
        self.q_head: QHead | None = None
        self.state_head: nn.Linear | None = None
        if config.learns_values:
            offset = _initial_logits(config.initial_value, self.values)
            rows = _rows(config, width, vocabulary, offset.numel())
            self.q_head = QHead(rows, offset).to(weight_VD.device, weight_VD.dtype)
            if config.state_value:
                offset = _initial_logits(config.initial_value, self.state_transform)
                self.state_head = nn.Linear(width, offset.numel(), device=weight_VD.device, dtype=weight_VD.dtype)
                nn.init.zeros_(self.state_head.weight)
                self.state_head.bias.data.copy_(offset.reshape(-1))
        self.generation_config = GenerationConfig.from_model_config(cast(Any, config.text_config))

    @classmethod
    def on(
        cls,
        language_model: nn.Module,
        model: LanguageModelConfig | None = None,
        objective: TextObjectiveConfig | None = None,
        *,
        returns: ReturnRange | None = None,
        guidance: GuidanceConfig | None = None,
    ) -> Self:
        """Put heads on a causal language model of transformers, which is trained in place.

        Args:
            returns: the range of returns; by default that of the objective, or [0, 1].

        Raises:
            RequestError: the model's logits are not those of a linear head.
        """
        model, objective = model or LanguageModelConfig(), objective or TextObjectiveConfig()
        low = 0.0 if objective.minimum_return is None else objective.minimum_return
        high = low + 1.0 if objective.maximum_return is None else objective.maximum_return
        returns = returns or ReturnRange(low, high)
        checked_trunk(language_model)
        text_config = cast(Any, language_model).config
        make: Any = QLanguageConfig
        config = make(
            text_config=text_config,
            # A composite configuration sets this of its parts, too.
            attn_implementation=text_config._attn_implementation,
            lora=to_dict(model.lora) if model.lora.rank else None,
            rows=model.rows,
            dueling=model.dueling,
            twin_critics=model.twin_critics,
            state_value=model.state_value or objective.bootstrap == "expectile",
            average_trunk=model.average_trunk,
            learns_values=objective.learns_values,
            value=objective.value_arguments(),
            initial_value=objective.initial_value,
            minimum_return=returns.low,
            maximum_return=returns.high,
            guidance=to_dict(guidance or GuidanceConfig()),
        )
        whole = cls(config, language_model)
        # Chat models end a turn with other tokens than a text; they say so here, not in their configuration.
        ends = getattr(getattr(language_model, "generation_config", None), "eos_token_id", None)
        if ends is not None:
            whole.generation_config.eos_token_id = ends
        if model.train == "heads" and not model.lora.rank:
            whole.language_model.requires_grad_(False)
        if model.gradient_checkpointing:
            whole.language_model.gradient_checkpointing_enable()
        return whole

    # --- what an objective asks ----------------------------------------------------------------------------------

    @property
    def trunk(self) -> nn.Module:
        """The language model without its head."""
        return cast(nn.Module, self.language_model.base_model)

    @property
    def language_VD(self) -> Tensor:  # noqa: N802
        """The rows of the language model's own head."""
        return cast(Tensor, self.language_model.get_output_embeddings().weight)

    @property
    def shares_trunk(self) -> bool:
        """Whether the target network reads the online trunk: it has no average of it, or the trunk is not trained."""
        return not self.config.average_trunk or not any(p.requires_grad for p in self.language_model.parameters())

    def shared_with_target(self) -> Iterator[nn.Parameter]:
        """Parameters of which the moving average keeps no copy of its own."""
        if not self.config.average_trunk:
            yield from self.language_model.parameters()

    def encode(self, input_ids_BL: Tensor, attention_mask_BL: Tensor | None = None) -> Tensor:
        """Hidden states `[B, L, D]`, after the last norm.

        Args:
            attention_mask_BL: True at real tokens. Not needed where padding stands on the right: no token sees it.
        """
        arguments: dict[str, Any] = {"input_ids": input_ids_BL, "use_cache": False}
        if attention_mask_BL is not None:
            arguments["attention_mask"] = attention_mask_BL.long()
            arguments |= position_arguments(self.trunk, attention_mask_BL)
        return cast(Tensor, self.trunk(**arguments).last_hidden_state)

    def policy_logits(self, hidden_ND: Tensor) -> Tensor:
        """The policy's own logits `[N, V]`."""
        return cast(Tensor, self.language_model.get_output_embeddings()(hidden_ND))

    def q_logits(self, hidden_ND: Tensor) -> Tensor:
        """Q logits `[N, V, *atom_shape]` of all tokens."""
        return self._head().every(hidden_ND, self.language_VD)

    def q_logits_at(self, hidden_ND: Tensor, tokens_NK: Tensor) -> Tensor:
        """Q logits `[N, K, *atom_shape]` of some tokens of each state."""
        return self._head().at(hidden_ND, self.language_VD, tokens_NK)

    def q_logits_at_shared(self, hidden_ND: Tensor, tokens_S: Tensor) -> Tensor:
        """Q logits `[N, S, *atom_shape]` of the same tokens in every state."""
        return self._head().at_shared(hidden_ND, self.language_VD, tokens_S)

    def state_logits(self, hidden_ND: Tensor) -> Tensor:
        """Logits `[N, *atom_shape]` of the value of a state."""
        if self.state_head is None:
            raise RequestError("model: found no head for the value of a state; build it with state_value=True")
        logits_NC: Tensor = self.state_head(hidden_ND)
        return logits_NC.reshape(len(hidden_ND), *self.state_transform.atom_shape)

    def policy_parameters(self) -> list[nn.Parameter]:
        """What `policy_logits` depends on."""
        return list(self.language_model.get_output_embeddings().parameters())

    def q_parameters(self) -> list[nn.Parameter]:
        """What `q_logits` depends on."""
        return list(self._head().parameters())

    def q_values_at(self, hidden_ND: Tensor, tokens_NK: Tensor) -> Tensor:
        """Returns `[N, K]` to expect of some tokens of each state."""
        return self.returns.from_unit(self.values.values(self.q_logits_at(hidden_ND, tokens_NK)))

    def _head(self) -> QHead:
        if self.q_head is None:
            raise RequestError("model: found no Q head: it was trained by imitation alone")
        return self.q_head

    # --- decoding ------------------------------------------------------------------------------------------------

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        logits_to_keep: int = 0,
        **arguments: Any,
    ) -> CausalLMOutputWithPast:
        """Guided logits `[B, L, V]` of the last `logits_to_keep` positions (0: of all), and the trunk's cache.

        Args:
            position_ids: by default, where there is no cache yet, each token's place among the real ones.
        """
        arguments.pop("return_dict", None)
        if position_ids is not None and takes_positions(self.trunk):
            arguments["position_ids"] = position_ids
        elif attention_mask is not None and attention_mask.ndim == 2 and arguments.get("past_key_values") is None:
            arguments |= position_arguments(self.trunk, attention_mask)
        outputs = self.trunk(input_ids=input_ids, attention_mask=attention_mask, **arguments)
        hidden_BLD: Tensor = outputs.last_hidden_state[:, -logits_to_keep:]
        logits_NV = self.guided_logits(hidden_BLD.flatten(0, 1))
        return CausalLMOutputWithPast(
            logits=logits_NV.reshape(*hidden_BLD.shape[:2], -1),
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
        )

    def guided_logits(self, hidden_ND: Tensor) -> Tensor:
        """The policy's logits steered by the values as `guidance` says, `[N, V]`."""
        logits_NV = self.policy_logits(hidden_ND)
        guidance = self.guidance
        if guidance.beta == 0.0 or self.q_head is None:
            return logits_NV
        tokens_NK, inside_NK = choose_support(logits_NV, guidance.support)
        if tokens_NK.shape[1] == self.vocabulary:
            q_NV = self.returns.from_unit(self.values.values(self.q_logits(hidden_ND)))
            q_NK = q_NV.gather(-1, tokens_NK)
        else:
            q_NK = self.q_values_at(hidden_ND, tokens_NK)
        value_N1 = None
        if self.state_head is not None:
            value_N1 = self.returns.from_unit(self.state_transform.values(self.state_logits(hidden_ND)))[:, None]
        return guide(logits_NV, tokens_NK, inside_NK, q_NK, value_N1, guidance.beta)

    def guided(self, **changes: Any) -> Self:
        """Set fields of `guidance`, such as `beta`; returns the model itself."""
        self.guidance = from_dict(GuidanceConfig, to_dict(replace(self.guidance, **changes)))
        self.config.guidance = to_dict(self.guidance)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The language model's."""
        return cast(nn.Module, self.language_model.get_input_embeddings())

    def get_output_embeddings(self) -> nn.Module:
        """The language model's."""
        return cast(nn.Module, self.language_model.get_output_embeddings())

    # --- files ---------------------------------------------------------------------------------------------------

    def save_description(self, folder: str | Path) -> None:
        """Write config.json and generation_config.json."""
        self.config.architectures = [type(self).__name__]
        self.config.save_pretrained(folder)
        self.generation_config.save_pretrained(folder)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:  # type: ignore[override]
        """Write config.json and model.safetensors: the language model, its adapters and the heads."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        self.save_description(folder)
        save_tensors(tensors_of(self), Path(folder) / WEIGHTS)

    @classmethod
    def from_pretrained(cls, source: str | Path, *_: Any, **changes: Any) -> Self:  # type: ignore[override]
        """Load what `save_pretrained` or a run wrote. Needs no network, and executes no stored code.

        Args:
            source: a folder, or a run, which gives its newest checkpoint.
            changes: fields of `GuidanceConfig`, such as `beta`.

        Raises:
            RequestError: there is no such model.
            DataError: its files are damaged.
        """
        unknown = [key for key in changes if key not in (*_GUIDANCE, *_AUTO) and not key.startswith("_")]
        if unknown:
            raise RequestError(f"from_pretrained: found '{unknown[0]}', expected some of {', '.join(_GUIDANCE)}")
        folder = Path(source)
        if (folder / "checkpoints").is_dir():
            folder = latest_checkpoint(folder)
        if not (folder / "config.json").is_file():
            raise RequestError(f"{folder}: found no config.json, expected a run or a folder of save_pretrained")
        try:
            config = QLanguageConfig.from_json_file(folder / "config.json")
            model = cls(config)
        except QseqError:
            raise
        except Exception as error:  # whatever transformers raises of a damaged description
            raise DataError(f"{folder / 'config.json'}: cannot be read ({' '.join(str(error).split())})") from error
        load_weights(model, folder / WEIGHTS)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        model.eval()  # type: ignore[no-untyped-call]
        return model.guided(**{key: value for key, value in changes.items() if key in _GUIDANCE})


def _rows(config: QLanguageConfig, width: int, vocabulary: int, logits: int) -> TokenRows:
    rows: TokenRows = TiedRows(width, logits) if config.rows == "tied" else LinearRows(width, vocabulary, logits)
    return DuelingRows(rows, width, logits) if config.dueling else rows


def _initial_logits(share: float, values: ValueTransform) -> Tensor:
    """Logits, of the shape of one value's, that mean this share of the range."""
    base = values.base if isinstance(values, LeastOf) else values
    if not base.atom_shape:
        bounded = make_value_transform("bounded")
        start = torch.tensor(share).clamp(1e-3, 1 - 1e-3).logit() if base.high == bounded.high else torch.tensor(share)
    else:
        start = cast(Any, base).histogram(torch.tensor(share)).clamp_min(1e-6).log()
    return start.expand(values.atom_shape).clone()


AutoConfig.register(QLanguageConfig.model_type, QLanguageConfig, exist_ok=True)
AutoModelForCausalLM.register(QLanguageConfig, QLanguageModel, exist_ok=True)
