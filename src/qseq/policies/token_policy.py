"""A policy that decodes the action tokens of `ActionNetwork` one by one.

Legend: B batch, T steps of an episode, F frames of history, A action tokens of a decision, K bins.
"""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

import qseq
from qseq.actions import ActionTokenizer, ChunkTokens
from qseq.configuration import from_dict, to_dict
from qseq.errors import ConfigError, DataError, RequestError
from qseq.files import write_atomic
from qseq.networks.action_network import ActionNetwork, NetworkConfig
from qseq.networks.decoding import Select, decode_tokens
from qseq.networks.observation import FieldLayout
from qseq.policies.base import Observation, Policy
from qseq.policies.locate import DESCRIPTION, WEIGHTS, locate_policy, read_description
from qseq.policies.memory import FrameMemory


@dataclass(frozen=True, kw_only=True)
class TokenPolicySpec:
    """Everything but the weights: enough to rebuild the network and act."""

    network: NetworkConfig
    fields: dict[str, tuple[int, ...]]
    """Observation field -> shape of one frame."""
    history: int
    tokenizer: ActionTokenizer
    action_space: dict[str, Any]
    extra: dict[str, Any]
    """What one family needs besides, as plain data."""
    default_instruction: str = ""
    """Told to the network when nobody says anything: the instruction of the data, where they hold but one."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "network": to_dict(self.network),
            "fields": {name: list(shape) for name, shape in self.fields.items()},
            "history": self.history,
            "tokenizer": self.tokenizer.to_dict(),
            "action_space": self.action_space,
            "extra": self.extra,
            "default_instruction": self.default_instruction,
        }

    @staticmethod
    def from_dict(description: Mapping[str, Any]) -> TokenPolicySpec:
        return TokenPolicySpec(
            network=from_dict(NetworkConfig, description["network"]),
            fields={name: tuple(shape) for name, shape in description["fields"].items()},
            history=int(description["history"]),
            tokenizer=ActionTokenizer.from_dict(description["tokenizer"]),
            action_space=dict(description["action_space"]),
            extra=dict(description["extra"]),
            default_instruction=str(description["default_instruction"]),
        )

    def blank_layouts(self) -> dict[str, FieldLayout]:
        """Layouts whose statistics the weights will overwrite."""
        return {name: FieldLayout(shape=shape) for name, shape in self.fields.items()}


class TokenPolicy(Policy):
    """Shared by families whose network is an `ActionNetwork`; they say how logits become scores and choices."""

    def __init__(self, network: ActionNetwork, spec: TokenPolicySpec, *, seed: int = 0, use_cache: bool = True) -> None:
        self.network = network.eval()
        self.spec = spec
        self.use_cache = use_cache
        self._memory = FrameMemory(spec.history)
        self._queues: dict[int, list[np.ndarray]] = {}
        self._instructions: dict[str, Tensor] = {}
        self._generator = torch.Generator(device=network.device)
        self.seed(seed)

    @classmethod
    @abstractmethod
    def build_network(cls, spec: TokenPolicySpec, layouts: Mapping[str, FieldLayout]) -> ActionNetwork:
        """The untrained network of a spec."""

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor:
        """Logits `[..., K, *outputs]` -> what bins are chosen by, `[..., K]`."""

    @abstractmethod
    def select(self) -> Select:
        """How a bin is chosen by its scores."""

    @property
    def observation_fields(self) -> dict[str, tuple[int, ...]]:
        return self.spec.fields

    @property
    def action_space(self) -> dict[str, Any]:
        return self.spec.action_space

    def random_action(self, generator: np.random.Generator) -> np.ndarray:
        """One action of random tokens, every existing bin equally likely; of a chunk, its first action."""
        tokens_1A = torch.as_tensor(generator.integers(self.spec.tokenizer.bins_per_token)[None])
        action: np.ndarray = self.spec.tokenizer.decode(tokens_1A)[0].numpy()
        return action[0] if isinstance(self.spec.tokenizer, ChunkTokens) else action

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    def reset(self, environment_ids: Sequence[int] | None = None) -> None:
        self._memory.forget(environment_ids)
        for environment in list(self._queues) if environment_ids is None else environment_ids:
            self._queues.pop(environment, None)

    def act(
        self,
        observation: Observation,
        instruction: str | Sequence[str] | None = None,
        *,
        environment_ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        frames, single = self._batch(observation)
        rows = len(next(iter(frames.values())))
        environments = list(range(rows)) if environment_ids is None else list(environment_ids)
        texts = self._texts(instruction, rows)
        windows = self._memory.push(frames, environments)
        actions = self._from_queues(environments, windows, texts)
        return actions[0] if single else actions

    def decide(self, windows: Mapping[str, np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """Whole decisions for windows `[B, F, *shape]`: `[B, *action_shape]`, or `[B, h, *shape]` with chunks."""
        with torch.inference_mode():
            tokens_BA, _ = decode_tokens(
                self.network.decoder,
                self._encode(windows, texts),
                self.select(),
                score=self.scores,
                token_mask_AK=self._token_mask(),
                use_cache=self.use_cache,
            )
            decoded: np.ndarray = self.spec.tokenizer.decode(tokens_BA).cpu().numpy()
            return decoded

    def action_values(
        self, observations: Mapping[str, np.ndarray], instruction: str | None, actions: np.ndarray
    ) -> np.ndarray:
        """Scores of every bin along one episode, given the actions it took: `[T, A, K]`.

        Args:
            observations: every field `[T or T + 1, *shape]`, from the start of the episode.
            actions: `[T, *action_shape]`.
        """
        steps, history = len(actions), self.spec.history
        rows_TF = np.maximum(np.arange(steps)[:, None] - np.arange(history - 1, -1, -1), 0)
        windows = {name: np.asarray(observations[name])[rows_TF] for name in self.spec.fields}
        if isinstance(self.spec.tokenizer, ChunkTokens):
            ahead = np.minimum(np.arange(steps)[:, None] + np.arange(self.spec.tokenizer.steps), steps - 1)
            actions = actions[ahead]
        tokens_TA = self.spec.tokenizer.encode(torch.as_tensor(np.asarray(actions))).to(self.network.device)
        with torch.inference_mode():
            context = self._encode(windows, self._texts(instruction, steps))
            values: np.ndarray = self.scores(self.network.decode(context, tokens_TA[:, :-1]).float()).cpu().numpy()
        return values

    def save_pretrained(self, folder: str | Path) -> None:
        from safetensors.torch import save_file

        Path(folder).mkdir(parents=True, exist_ok=True)
        weights = {name: value.detach().contiguous().cpu() for name, value in self.network.state_dict().items()}
        save_file(weights, Path(folder) / WEIGHTS)
        write_description(self.kind, self.spec, Path(folder))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        folder = locate_policy(source)
        description = read_description(folder)
        if description["kind"] != cls.kind:
            raise RequestError(f"{folder}: found a policy of kind '{description['kind']}', expected '{cls.kind}'")
        try:
            spec = TokenPolicySpec.from_dict(description)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise DataError(f"{folder / DESCRIPTION}: does not describe a policy ({error!r})") from error
        network = cls.build_network(spec, spec.blank_layouts())
        try:
            network.load_state_dict(load_file(folder / WEIGHTS))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise DataError(
                f"{folder / WEIGHTS}: cannot be read as the weights that {DESCRIPTION} describes "
                f"({str(error).splitlines()[0]})"
            ) from error
        return cls(network, spec, **options)

    def describe(self) -> dict[str, Any]:
        parameters = sum(p.numel() for p in self.network.parameters())
        return {"kind": self.kind, "parameters": parameters, **self.spec.to_dict()}

    def _from_queues(
        self, environments: Sequence[int], windows: Mapping[str, np.ndarray], texts: Sequence[str]
    ) -> np.ndarray:
        """A chunk is decided once and played step by step."""
        if not isinstance(self.spec.tokenizer, ChunkTokens):
            return self.decide(windows, texts)
        empty = [row for row, environment in enumerate(environments) if not self._queues.get(environment)]
        if empty:
            chunks = self.decide({n: w[empty] for n, w in windows.items()}, [texts[row] for row in empty])
            for row, chunk in zip(empty, chunks, strict=True):
                self._queues[environments[row]] = list(chunk)
        return np.stack([self._queues[environment].pop(0) for environment in environments])

    def _batch(self, observation: Observation) -> tuple[dict[str, np.ndarray], bool]:
        """Fields `[B, *shape]`, and whether a single observation was given."""
        given = observation if isinstance(observation, Mapping) else {"state": observation}
        frames: dict[str, np.ndarray] = {}
        single = False
        for name, shape in self.spec.fields.items():
            if name not in given:
                raise RequestError(
                    f"observation: field '{name}' is missing; found {sorted(given)}, "
                    f"expected {sorted(self.spec.fields)}"
                )
            value = np.asarray(given[name])
            single = value.shape == shape
            if not single and value.shape[1:] != shape:
                raise RequestError(
                    f"observation: field '{name}' has shape {list(value.shape)}, expected {list(shape)} "
                    "or a batch of them"
                )
            frames[name] = value[None] if single else value
        return frames, single

    def _texts(self, instruction: str | Sequence[str] | None, rows: int) -> list[str]:
        if instruction is None:
            instruction = self.spec.default_instruction
        return [instruction] * rows if isinstance(instruction, str) else list(instruction)

    def _encode(self, windows: Mapping[str, np.ndarray], texts: Sequence[str]) -> Tensor:
        device = self.network.device
        for text in set(texts) - set(self._instructions):
            self._instructions[text] = self.network.embed_texts([text])[0]
        instruction_BD = torch.stack([self._instructions[text] for text in texts])
        observation = {name: torch.from_numpy(values).to(device) for name, values in windows.items()}
        return self.network.encode(observation, instruction_BD)

    def _token_mask(self) -> Tensor | None:
        mask_AK = self.spec.tokenizer.token_mask
        return None if mask_AK is None else mask_AK.to(self.network.device)


def write_description(kind: str, spec: TokenPolicySpec, folder: Path) -> None:
    """Write `policy.json`: all a policy needs beside its weights."""
    description = {"kind": kind, "qseq": qseq.__version__, **spec.to_dict()}
    write_atomic(folder / DESCRIPTION, json.dumps(description, indent=1))
