"""An exported policy decides with onnxruntime and numpy alone: where it acts there need be no torch.

Legend: B rows of a batch, F frames of history, W words of an instruction, E width of a word's embedding, A action
tokens of a decision, K bins.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from qseq.errors import DataError, RequestError
from qseq.networks.words import hashed_words
from qseq.observations import FrameMemory, Observation, is_image, read_frames, read_instructions

DESCRIPTION = "exported.json"
EMBEDDINGS = "instructions.npy"

Arrays = Sequence[np.ndarray]


class OnnxPolicy:
    """Greedy decisions of the graphs in a folder that `export_policy` wrote.

    It acts as the policy it was made from: history, chunks and instructions are kept for each environment apart. A
    camera's frames are all encoded at each decision.

    Args:
        folder: with `exported.json`, `encoder.onnx` and, for decisions of several tokens, `decoder.onnx`.
        threads: that onnxruntime computes with.

    Raises:
        RequestError: no export there, or onnxruntime is not installed.
        DataError: its files are damaged.
    """

    def __init__(self, folder: str | Path, *, threads: int = 1) -> None:
        folder = Path(folder)
        self.description = read_description(folder)
        action = self.description["action"]
        self.observation_fields = {name: tuple(shape) for name, shape in self.description["fields"].items()}
        self.action_space: dict[str, Any] = self.description["action_space"]
        self.history = int(self.description["history"])
        self._values_AK = [np.array(values, dtype=action["dtype"]) for values in action["values"]]
        self._action_shape, self._chunk = tuple(action["shape"]), int(action["chunk"])
        self._order = list(self.description["order"]) or list(range(len(self._values_AK)))
        self._instruction = self.description["instruction"]
        frozen = self._instruction["kind"] == "embeddings"
        self._embeddings = _read_embeddings(folder, self._instruction["texts"]) if frozen else {}
        self._programs = {name: _session(folder / file, threads) for name, file in self.description["programs"].items()}
        self._frames = FrameMemory(self.history, first_frame=bool(self.description["first_frame"]))
        self._queues: dict[int, list[np.ndarray]] = {}

    @property
    def takes_instructions(self) -> bool:
        return bool(self._instruction["kind"] != "none")

    def seed(self, seed: int) -> None:
        """Nothing is random; for whoever treats all policies alike."""

    def reset(self, environment_ids: Sequence[int] | None = None) -> None:
        """Forget these environments (all by default): their next observation starts an episode."""
        self._frames.forget(environment_ids)
        for environment in list(self._queues) if environment_ids is None else environment_ids:
            self._queues.pop(environment, None)

    def act(
        self,
        observation: Observation,
        instruction: str | Sequence[str] | None = None,
        *,
        environment_ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        """The action for one observation, or a batch of actions for a batch; arguments as of `qseq.Policy.act`.

        Raises:
            RequestError: a field is missing or of another shape; an instruction the policy cannot read, or none where
                it needs one.
        """
        frames, single = self._read(observation)
        rows = len(next(iter(frames.values())))
        environments = list(range(rows)) if environment_ids is None else list(environment_ids)
        texts = read_instructions(
            instruction,
            rows,
            default=self._instruction["default"],
            taken=self.takes_instructions,
            needed=self._instruction["needed"],
        )
        windows = self._frames.push(frames, environments)
        due = [row for row, environment in enumerate(environments) if not self._queues.get(environment)]
        if due:
            decided = self.decide({n: w[due] for n, w in windows.items()}, [texts[row] for row in due])
            for row, actions in zip(due, decided, strict=True):
                self._queues[environments[row]] = list(actions) if self._chunk else [actions]
        actions = np.stack([self._queues[environment].pop(0) for environment in environments])
        return actions[0] if single else actions

    def decide(self, windows: Mapping[str, np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Whole decisions for windows `[B, F, *shape]`: `[B, *action_shape]`, or `[B, h, *shape]` with chunks."""
        told = [self._embedded(texts)] if self.takes_instructions else []
        _, values_BK, *cache = self._run("encoder", [*(windows[name] for name in self.observation_fields), *told])
        tokens = [values_BK.argmax(-1)]
        while len(tokens) < len(self._order):
            values_BK, *cache[:2] = self._run("decoder", [tokens[-1], *cache])
            tokens.append(values_BK.argmax(-1))
        chosen = {token: self._values_AK[token][bins_B] for token, bins_B in zip(self._order, tokens, strict=True)}
        actions_BA = np.stack([chosen[token] for token in sorted(chosen)], axis=1)
        return actions_BA.reshape(-1, *self._action_shape)

    def describe(self) -> dict[str, Any]:
        """What it is, as plain data."""
        return self.description

    def _run(self, program: str, inputs: Arrays) -> list[np.ndarray]:
        session = self._programs[program]
        names = [one.name for one in session.get_inputs()]
        outputs: list[np.ndarray] = session.run(None, dict(zip(names, inputs, strict=True)))
        return outputs

    def _read(self, observation: Observation) -> tuple[dict[str, np.ndarray], bool]:
        """Fields `[B, *shape]` in the types of the graph, and whether a single observation was given."""
        frames, single = read_frames(observation, self.observation_fields)
        for name, values in frames.items():
            if not is_image(self.observation_fields[name]):
                frames[name] = values.astype(np.float32)
            elif values.dtype != np.uint8:
                raise RequestError(f"observation: image '{name}' is {values.dtype}, expected uint8 in [0, 255]")
        return frames, single

    def _embedded(self, texts: Sequence[str]) -> np.ndarray:
        """What the encoder reads of the texts, int64 `[B, W]` or float32 `[B, W, E]`, zeros where there is no word."""
        if self._instruction["kind"] == "words":
            rows = [np.array(hashed_words(text, self._instruction["vocabulary"]), dtype=np.int64) for text in texts]
        else:
            unknown = [text for text in texts if text and text not in self._embeddings]
            if unknown:
                raise RequestError(
                    f"instruction: found '{unknown[0]}', expected one of {sorted(self._embeddings)}: the text encoder "
                    "is not part of the export; name it there with --instruction"
                )
            nothing = np.zeros((0, self._instruction["width"]), dtype=np.float32)
            rows = [self._embeddings.get(text, nothing) for text in texts]
        width = max(1, *map(len, rows))
        return np.stack([np.pad(row, [(0, width - len(row)), *[(0, 0)] * (row.ndim - 1)]) for row in rows])


def read_description(folder: Path) -> dict[str, Any]:
    """The contents of `exported.json`.

    Raises:
        RequestError: there is none.
        DataError: it cannot be read.
    """
    path = folder / DESCRIPTION
    if not path.is_file():
        raise RequestError(
            f"{folder}: found no {DESCRIPTION}, expected a folder written by 'qseq export --format onnx'"
        )
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        if description["format"] != "onnx":
            raise RequestError(f"{folder}: found an export for {description['format']}, expected one for onnx")
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read ({error!r}), expected the JSON of an export") from error
    return dict(description)


def _read_embeddings(folder: Path, texts: Sequence[str]) -> dict[str, np.ndarray]:
    """Instruction -> float32 `[W, E]`, rows of zeros where there is no word."""
    try:
        return dict(zip(texts, np.load(folder / EMBEDDINGS), strict=False))
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / EMBEDDINGS}: cannot be read as embeddings of instructions ({error})") from error


def _session(path: Path, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise RequestError(
            "onnxruntime is not installed, expected it where a policy acts: pip install onnxruntime"
        ) from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors; it warns of constants that it computes at each run
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's errors share no base class of their own
        raise DataError(f"{path}: cannot be read as an ONNX graph ({str(error).splitlines()[0]})") from error
