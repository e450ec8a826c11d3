"""A policy's programs as files: ONNX, or torch's own format, with all else that acting needs in a JSON beside them.

Legend: A action tokens of a decision, K bins.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

import qseq
from qseq.actions import ChunkTokens
from qseq.episodes import PAST_ACTIONS
from qseq.errors import RequestError
from qseq.export.onnx_policy import DESCRIPTION, EMBEDDINGS
from qseq.export.programs import Program, make_programs
from qseq.files import new_folder, write_atomic
from qseq.networks.decoding import greedy
from qseq.networks.observation import VectorEncoder
from qseq.networks.text import FROZEN
from qseq.policies import Policy, TokenPolicy
from qseq.registry import load_policy
from qseq.robot import QTransformerPolicy

Format = Literal["onnx", "torch-export"]
_SUFFIX = {"onnx": "onnx", "torch-export": "pt2"}
_ELSEWHERE = {
    "language": "language models export through their own tools: merge the values with qseq.language.merge_q_head, "
    "then 'optimum-cli export onnx' or llama.cpp's converter",
    "planner": "a planner denoises in a loop that diffusers runs; its networks have no export yet",
}


def export_policy(
    source: str | Path | Policy,
    out: str | Path,
    *,
    format: Format = "onnx",
    int8: bool = False,
    instructions: Sequence[str] = (),
    **options: Any,
) -> Path:
    """Write the programs of a policy and `exported.json` into a new folder.

    Args:
        source: a run, a policy folder, a Hub repository or a policy, whose network is moved to the CPU.
        out: must not exist, or be empty.
        format: "onnx" (`encoder.onnx`, `decoder.onnx`; read by `OnnxPolicy`) or "torch-export" (`encoder.pt2`,
            `decoder.pt2`; read by `torch.export.load`).
        int8: round the weights of linear layers.
        instructions: what the policy can be told later, where a frozen encoder reads it.
        options: of loading the policy.

    Raises:
        RequestError: the policy is of a family or has options that are not exported, or something is in the way.
    """
    if format not in _SUFFIX:
        raise RequestError(f"format: found '{format}', expected one of {', '.join(_SUFFIX)}")
    out = Path(out)
    if format == "onnx":
        _require_onnx()
    with new_folder(out) as folder:
        policy: Any = source if isinstance(source, Policy) else load_policy(source, **options)
        order = check_exportable(policy)
        if int8 and policy.spec.weights != "int8":
            policy = type(policy)(policy.network, policy.spec, weights="int8")
        policy.network.cpu()
        programs = make_programs(policy, order)
        for program in programs:
            _write(program, folder / f"{program.name}.{_SUFFIX[format]}", format)
        description = describe(policy, format, [program.name for program in programs], order)
        description["instruction"]["texts"] = _write_embeddings(policy, instructions, folder)
        write_atomic(folder / DESCRIPTION, json.dumps(description, indent=1) + "\n")
    return out


def check_exportable(policy: Any) -> Sequence[int]:
    """The order in which the policy decides its tokens, empty for their own.

    Raises:
        RequestError: it is not exported; says what is.
    """
    if not isinstance(policy, TokenPolicy):
        family = type(policy).__module__.split(".")[1]
        reason = _ELSEWHERE.get(family, "only policies of action tokens are exported")
        raise RequestError(f"a policy of kind '{policy.kind}' is not exported: {reason}")
    if PAST_ACTIONS in policy.spec.fields:
        raise RequestError("data.past_actions: a policy that remembers its actions is not exported; train it without")
    if policy.spec.network.head.dimension_order == "learned":
        raise RequestError("network.head.dimension_order: found learned, expected fixed or random: it is not exported")
    if policy.spec.weights == "bfloat16":
        raise RequestError("weights: found bfloat16, expected float32 or int8: programs compute in float32")
    if policy.cond_scale != 1.0:
        raise RequestError(f"cond_scale: found {policy.cond_scale}, expected 1: guidance is not exported")
    decoding = policy.decoding if isinstance(policy, QTransformerPolicy) else None
    if policy.select() is not greedy or (decoding is not None and decoding.beam_width > 1):
        raise RequestError(
            "decoding: found a policy that samples or searches, expected a greedy one, as exports decide; load it so "
            "with --policy-options, such as temperature=0, epsilon=0, beam_width=1, or decoding=greedy of cloning"
        )
    if decoding is not None and decoding.prior_weight:
        raise RequestError(
            f"decoding.prior_weight: found {decoding.prior_weight}, expected 0: programs hold the values alone; load "
            "the policy with --policy-options prior_weight=0"
        )
    return () if decoding is None else decoding.order


def describe(policy: TokenPolicy, format: str, programs: Sequence[str], order: Sequence[int]) -> dict[str, Any]:
    """What `exported.json` says. What standardises a field is part of the graph, and told for readers."""
    spec = policy.spec
    tokenizer, text = spec.tokenizer, spec.network.text
    encoders = zip(policy.network.encoder.fields, policy.network.encoder.encoders, strict=True)
    kind = {"words": "words", "none": "none"}.get(text.encoder, "embeddings")
    return {
        "format": format,
        "qseq": qseq.__version__,
        "kind": policy.kind,
        "weights": spec.weights,
        "programs": {name: f"{name}.{_SUFFIX[format]}" for name in programs},
        "fields": {name: list(shape) for name, shape in spec.fields.items()},
        "history": spec.history,
        "first_frame": spec.first_frame,
        "normalisation": {
            name: {"mean": encoder.mean.tolist(), "std": encoder.std.tolist(), "clip": encoder.clip}
            for name, encoder in encoders
            if isinstance(encoder, VectorEncoder)
        },
        "instruction": {
            "kind": kind,
            "default": spec.default_instruction,
            "needed": spec.needs_instruction,
            "vocabulary": text.vocabulary,
            "width": text.embed_dim,
        },
        "action_space": spec.action_space,
        "action": {
            **_action_values(policy),
            "shape": list(tokenizer.action_shape),
            "chunk": tokenizer.steps if isinstance(tokenizer, ChunkTokens) else 0,
        },
        "order": list(order),
    }


def _action_values(policy: TokenPolicy) -> dict[str, Any]:
    """The number that each bin of each token stands for, and its type."""
    tokenizer = policy.spec.tokenizer
    bins_A = torch.tensor(tokenizer.bins_per_token)
    tokens_KA = torch.minimum(torch.arange(tokenizer.num_bins)[:, None], bins_A - 1)
    decoded_KA = (
        tokenizer.decode(tokens_KA).flatten(1) if tokenizer.action_shape else tokenizer.decode(tokens_KA)[:, None]
    )
    return {
        "values": [decoded_KA[:bins, token].tolist() for token, bins in enumerate(tokenizer.bins_per_token)],
        "dtype": str(decoded_KA.dtype).removeprefix("torch."),
    }


def _write_embeddings(policy: TokenPolicy, instructions: Sequence[str], folder: Path) -> list[str]:
    """Of a frozen encoder, which is not exported: the embeddings of all that the policy may be told."""
    if not policy.spec.network.text.encoder.startswith(FROZEN):
        if instructions and not policy.takes_instructions:
            raise RequestError(f"instruction: found '{instructions[0]}', expected none: the policy reads none")
        return []
    texts = list(dict.fromkeys(filter(None, [policy.spec.default_instruction, *instructions])))
    if policy.spec.needs_instruction and not texts:
        raise RequestError(
            "instruction: found none, expected what the policy will be told (--instruction TEXT ...): its text encoder "
            "is not exported, what it says of these texts is"
        )
    np.save(folder / EMBEDDINGS, policy.network.text_inputs(texts or [""]).numpy(), allow_pickle=False)
    return texts


def _write(program: Program, path: Path, format: Format) -> None:
    try:
        with torch.no_grad(), _quiet():
            exported = torch.export.export(program.module, program.examples, dynamic_shapes=program.dynamic_shapes)
            if format == "torch-export":
                torch.export.save(exported, path)
                return
            # Its optimiser leaves large casts alone, so rounded weights stay rounded in the file.
            onnx = torch.onnx.export(exported, input_names=program.inputs, output_names=program.outputs, verbose=False)
            assert onnx is not None
            onnx.save(path, external_data=False)
    except Exception as error:  # whatever tracing meets in a model of another library
        raise RequestError(
            f"the {program.name} cannot be traced for {format}: {type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]}; QSEQ_DEBUG=1 shows where"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what torch says of its own workings, and of libraries that nothing here needs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def _require_onnx() -> None:
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise RequestError("format onnx: onnx or onnxscript is not installed: pip install 'qseq[export]'") from error
