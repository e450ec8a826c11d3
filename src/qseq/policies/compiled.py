"""Decoding as one compiled program, for decisions of few rows: many small operations, each with little to do."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from qseq.errors import RequestError
from qseq.networks.decoder import Decoder
from qseq.networks.decoding import decode_tokens
from qseq.networks.quick_decoder import QuickDecoder

BACKEND = "inductor"


class CompiledDecoding:
    """`decode_tokens` of one decoder by torch.compile, all tokens of a decision in one program.

    It is compiled at the first decision, and once more when the number of rows changes, which takes up to a minute. On
    a CPU it reads a copy of the decoder's weights, see `QuickDecoder`.
    """

    def __init__(self) -> None:
        self._program = torch.compile(decode_tokens, backend=BACKEND, fullgraph=True)
        self._quick = QuickDecoder()

    def __call__(self, decoder: Decoder, context: Tensor, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        """As `decode_tokens`. Raises RequestError where torch cannot compile it, such as without a C++ compiler."""
        try:
            decoder = self._quick.of(decoder) if context.device.type == "cpu" else decoder
            return self._program(decoder, context, *arguments, **options)
        except torch._dynamo.exc.TorchDynamoException as error:
            cause = getattr(error, "inner_exception", error)
            reason = f"{type(cause).__name__}: {cause}".splitlines()[0]
            raise RequestError(
                f"compiled: found true, but torch cannot compile this policy's decoding ({reason}): it needs a "
                "C++ compiler; load the policy with compiled=false"
            ) from error
