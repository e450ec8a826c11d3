"""The files of a token policy, and how its weights are kept in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast, get_args

from torch import Tensor, nn

import qseq
from qseq.errors import DataError, RequestError
from qseq.files import make_ordinary, write_atomic
from qseq.policies.locate import DESCRIPTION, WEIGHTS

if TYPE_CHECKING:
    from qseq.policies.token_policy_spec import TokenPolicySpec


Weights = Literal["float32", "bfloat16", "int8"]
"""How the weights of a policy's linear layers are kept."""


def checked_weights(weights: str) -> Weights:
    """Raises RequestError for another word than these."""
    for known in get_args(Weights):
        if weights == known:
            return cast(Weights, known)
    raise RequestError(f"weights: found '{weights}', expected {', '.join(get_args(Weights)[:-1])} or int8")


def write_policy(kind: str, spec: TokenPolicySpec, weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write `policy.json` and the weights."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    save_file({name: value.detach().contiguous().cpu() for name, value in weights.items()}, folder / WEIGHTS)
    make_ordinary(folder / WEIGHTS)  # safetensors makes its files private
    write_description(kind, spec, folder)


def load_weights(network: nn.Module, folder: Path) -> None:
    """Read the weights. Raises DataError if they are damaged, or not those of the network that `policy.json` tells."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        network.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError, OSError) as error:
        raise DataError(
            f"{folder / WEIGHTS}: cannot be read as the weights that {DESCRIPTION} describes "
            f"({str(error).splitlines()[0]})"
        ) from error


def write_description(kind: str, spec: TokenPolicySpec, folder: Path) -> None:
    """Write `policy.json`: all a policy needs beside its weights."""
    description = {"kind": kind, "qseq": qseq.__version__, **spec.to_dict()}
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=1))
