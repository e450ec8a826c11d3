"""Instructions as the network reads them: words it learns itself, or embeddings of a frozen text encoder.

Legend: I instructions of a data set, B batch, W words of the longest instruction, E width of a word's embedding,
D width of the network.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from qseq.configuration import Fraction, NonNegativeInt
from qseq.errors import ConfigError
from qseq.networks.words import hashed_words

_PADDING = 0
FROZEN = "hf:"


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """How instructions are read, and what they condition beside the cameras' towers."""

    encoder: str = "words"
    """"words": a table of hashed words, learnt with the rest; "hf:NAME_OR_PATH": any text encoder of Hugging Face,
    frozen; "none": no instructions."""
    revision: str = ""
    """Version of a Hugging Face encoder: a branch, a tag or a commit. Runs note the commit, or for a folder a checksum
    of its files."""
    vocabulary: int = 1024
    """Buckets that words are hashed to. For "words"."""
    embed_dim: NonNegativeInt = 0
    """E, the width of a word's embedding; 0 takes the encoder's own (for "words" that of the network)."""
    cross_attention: bool = False
    """Let the observation's tokens attend to the words, before every block of the transformer."""
    film: bool = False
    """Let the instruction scale and shift the observation's tokens before every block of the transformer."""
    norm: bool = False
    """Scale the summary of an instruction to the size of other tokens (layer norm). Without, what tells one instruction
    from another starts at a thirtieth of what tells one picture from another, and is learnt late."""
    gate_numbers: bool = False
    """Let the instruction scale what is read from the fields of numbers, feature by feature: how far a robot has come
    means one thing for "on your left" and another for "behind you"."""
    drop_probability: Fraction = 0.0
    """Share of the training samples whose instruction is replaced by the learnt null instruction, for guidance."""

    def __post_init__(self) -> None:
        frozen = self.encoder.startswith(FROZEN) and self.encoder != FROZEN
        if self.encoder not in ("words", "none") and not frozen:
            raise ConfigError(f"network.text.encoder: found '{self.encoder}', expected words, hf:NAME_OR_PATH or none")
        if self.encoder == "none" and (self.cross_attention or self.film or self.gate_numbers or self.drop_probability):
            raise ConfigError(
                "network.text: found encoder=none with cross_attention, film, gate_numbers or drop_probability, "
                "expected none of them: there is no instruction to condition on"
            )


@dataclass(frozen=True)
class Instruction:
    """Instructions of a batch, ready to condition on: a summary of each and, for cross-attention, its words."""

    summary_BD: Tensor
    words_BWD: Tensor | None = None
    present_BW: Tensor | None = None
    """Bool, False where a shorter instruction has no word."""

    def __len__(self) -> int:
        return len(self.summary_BD)

    def __getitem__(self, rows_B: Tensor) -> Instruction:
        """The instructions of these rows (int64), repeated where a row is."""
        words, present = self.words_BWD, self.present_BW
        return Instruction(
            self.summary_BD[rows_B],
            None if words is None else words[rows_B],
            None if present is None else present[rows_B],
        )

    def tokens(self) -> tuple[Tensor, Tensor]:
        """What cross-attention reads: the summary and the words `[B, 1 + W, D]`, and where there are any (bool)."""
        summary_B1D = self.summary_BD[:, None]
        here_B1 = summary_B1D.new_ones(summary_B1D.shape[:2], dtype=torch.bool)
        if self.words_BWD is None or self.present_BW is None:
            return summary_B1D, here_B1
        return torch.cat((summary_B1D, self.words_BWD), dim=1), torch.cat((here_B1, self.present_BW), dim=1)

    @staticmethod
    def concatenate(parts: Sequence[Instruction]) -> Instruction:
        """Batches one after the other, padded to the longest instruction."""
        summary_BD = torch.cat([part.summary_BD for part in parts])
        words = [words for part in parts if part.words_BWD is not None for words in part.words_BWD]
        present = [present for part in parts if part.present_BW is not None for present in part.present_BW]
        if not words:
            return Instruction(summary_BD)
        return Instruction(summary_BD, pad_sequence(words, batch_first=True), pad_sequence(present, batch_first=True))


def word_ids(texts: Sequence[str], *, vocabulary: int) -> Tensor:
    """`hashed_words` of each text, padded with 0: int64 `[B, W]`, W at least 1."""
    rows = [hashed_words(text, vocabulary) for text in texts]
    width = max(1, max((len(row) for row in rows), default=1))
    return torch.tensor([row + [_PADDING] * (width - len(row)) for row in rows], dtype=torch.long).reshape(-1, width)


class InstructionEncoder(nn.Module):
    """Averages the embeddings of an instruction's words and passes the mean through a small network.

    An instruction without words gives a learnt null vector, and so does one that is dropped for classifier-free
    guidance (Ho and Salimans 2022, section 3.2): in training each sample's with `config.drop_probability`, by itself.

    What it reads (`inputs`) is int64 `[I, W]`, hashed words of which 0 is padding, or floating `[I, W, E]`, embeddings
    of words of which rows of zeros are padding.
    """

    def __init__(self, dim: int, config: TextConfig) -> None:
        super().__init__()
        self.conditional = config.encoder != "none"
        self.reads_words = config.cross_attention
        self.drop_probability = config.drop_probability
        width = config.embed_dim or dim
        self.words = nn.Embedding(config.vocabulary, width, padding_idx=_PADDING) if config.encoder == "words" else None
        self.null_D = nn.Parameter(torch.randn(dim) * 0.02)
        if not self.conditional:
            return
        layers = [nn.Linear(width, dim), nn.GELU(), nn.Linear(dim, dim)]
        self.network = nn.Sequential(*layers, nn.LayerNorm(dim)) if config.norm else nn.Sequential(*layers)
        self.word_network = nn.Linear(width, dim) if config.cross_attention else None

    def embeddings(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Embeddings of the words `[I, W, E]`, zero where there is none, and where there is one, bool `[I, W]`."""
        if inputs.is_floating_point():
            return inputs.to(self.null_D.dtype), (inputs != 0).any(-1)
        if self.words is None:
            raise ValueError("hashed words given to a network that reads a frozen encoder's embeddings")
        present_IW = inputs != _PADDING
        return self.words(inputs) * present_IW.unsqueeze(-1), present_IW

    def raw(self, inputs: Tensor) -> Tensor:
        """What may be given in the place of texts: mean embeddings `[I, E]`, or `[I, W, E]` for cross-attention."""
        embedded_IWE, present_IW = self.embeddings(inputs)
        return embedded_IWE if self.reads_words else _mean(embedded_IWE, present_IW)

    def null(self, batch: int) -> Instruction:
        """The null instruction, for every row."""
        return Instruction(self.null_D.expand(batch, -1))

    def forward(self, inputs: Tensor, rows_B: Tensor | None = None) -> Instruction:
        """The instructions of `inputs`, or those of its rows `rows_B` (int64), in training some of them dropped."""
        if not self.conditional:
            return self.null(len(inputs if rows_B is None else rows_B))
        if rows_B is not None and len(inputs) > len(rows_B):
            inputs, rows_B = inputs[rows_B], None
        embedded_IWE, present_IW = self.embeddings(inputs)
        summary_ID = self.network(_mean(embedded_IWE, present_IW))
        summary_ID = torch.where(present_IW.any(1, keepdim=True), summary_ID, self.null_D.to(summary_ID.dtype))
        if self.word_network is None:
            instruction = Instruction(summary_ID)
        else:
            instruction = Instruction(summary_ID, self.word_network(embedded_IWE), present_IW)
        if rows_B is not None:
            instruction = instruction[rows_B]
        return self._drop(instruction) if self.training and self.drop_probability else instruction

    def _drop(self, instruction: Instruction) -> Instruction:
        summary_BD, present_BW = instruction.summary_BD, instruction.present_BW
        kept_B1 = torch.rand(len(instruction), 1, device=summary_BD.device) >= self.drop_probability
        return Instruction(
            torch.where(kept_B1, summary_BD, self.null_D.to(summary_BD.dtype)),
            instruction.words_BWD,
            None if present_BW is None else present_BW & kept_B1,
        )


def _mean(embedded_IWE: Tensor, present_IW: Tensor) -> Tensor:
    """Over the words that are there, `[I, E]`; zero where there is none."""
    return embedded_IWE.sum(1) / present_IW.sum(1, keepdim=True).clamp(min=1)
