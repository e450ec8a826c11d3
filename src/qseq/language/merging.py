"""A trained policy as a plain language model: values merged into its head, for servers that know nothing of values."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from qseq.errors import RequestError
from qseq.language.model import QLanguageModel


@torch.no_grad()
def merge_q_head(model: QLanguageModel, beta: float | None = None) -> nn.Module:
    """The language model with the head `W + beta * width * W_Q`, its embeddings untied: `logits + beta * Q` up to a
    number that is the same for all tokens of a state.

    Adapters are merged, too. The policy's own support is no part of it: restrict it where tokens are drawn, by min_p
    or top_p.

    Args:
        beta: by default the model's own.

    Returns:
        A causal language model of transformers, a copy; its `save_pretrained` writes a checkpoint like any other.

    Raises:
        RequestError: Q is not linear in the hidden state (bounded and categorical values, two critics), or beta is
            infinite.
    """
    beta = model.guidance.beta if beta is None else beta
    if model.q_head is not None and model.values.atom_shape != ():
        raise RequestError(
            "merge: found several logits a value, expected one: two critics and histograms are not linear"
        )
    if model.q_head is not None and torch.isfinite(torch.tensor(model.state_transform.high)):
        raise RequestError('merge: found bounded values, expected objective.value="unbounded": a sigmoid is not linear')
    if beta == float("inf"):
        raise RequestError("merge: found an infinite beta, expected a number")
    plain: Any = copy.deepcopy(model.language_model)
    if model.config.lora is not None:
        _merge_adapters(plain)
    head = plain.get_output_embeddings()
    rows_VD = head.weight.detach().clone()
    if model.q_head is not None:
        matrix_VD = model.q_head.rows.matrices(model.language_VD)[0]
        rows_VD += beta * model.returns.width * matrix_VD
    untied = nn.Linear(head.in_features, head.out_features, bias=head.bias is not None).to(rows_VD)
    untied.weight.copy_(rows_VD)
    if head.bias is not None:
        untied.bias.copy_(head.bias)
    plain.config.tie_word_embeddings = False
    plain.set_output_embeddings(untied)
    return plain.requires_grad_(True).eval()  # type: ignore[no-any-return]


def _merge_adapters(plain: nn.Module) -> None:
    """Add low-rank adapters into the layers they stand beside, and put the plain layers back."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(plain.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent = plain.get_submodule(name.rpartition(".")[0])
            setattr(parent, name.rpartition(".")[2], module.get_base_layer())
    # transformers would save the model as adapters on a base model.
    vars(plain).pop("peft_config", None)
    vars(plain).pop("_hf_peft_config_loaded", None)
