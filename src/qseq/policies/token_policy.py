"""A policy that decodes the action tokens of `ActionNetwork` one by one.

Legend: B batch, T steps of an episode, F frames of history, A action tokens of a decision, K bins.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from qseq.actions import ChunkTokens
from qseq.episodes import PAST_ACTIONS
from qseq.errors import ConfigError, DataError, RequestError
from qseq.networks.action_network import ActionNetwork, unpublished
from qseq.networks.decoder import Decoder
from qseq.networks.decoding import Search, Select, decode_tokens, greedy
from qseq.networks.guidance import GuidedDecoder, guided_context
from qseq.networks.observation import FieldLayout
from qseq.networks.quantised import quantised
from qseq.networks.text import Instruction
from qseq.networks.vision import center_crop
from qseq.observations import FrameMemory, Observation, frames_back, is_image, read_frames, read_instructions
from qseq.policies.attention import camera_attention
from qseq.policies.base import Policy
from qseq.policies.camera_memory import CameraMemory, ShownFrames
from qseq.policies.compiled import CompiledDecoding
from qseq.policies.files import Weights, checked_weights, load_weights, write_policy
from qseq.policies.locate import DESCRIPTION, locate_policy, read_description
from qseq.policies.memory import ActionMemory, InstructionMemory
from qseq.policies.repeats import Repeats
from qseq.policies.token_policy_spec import TokenPolicySpec
from qseq.policies.watching import WatchedDecisions
from qseq.policies.windows import decision_steps


class TokenPolicy(Policy):
    """Shared by families whose network is an `ActionNetwork`; they say how logits become scores and choices.

    Args:
        seed: of random choices in decoding.
        use_cache: keep keys and values while the tokens of a decision are decoded, and what cameras' frames gave from
            one decision to the next. Without it all is computed again, to the same effect.
        cond_scale: how much more the instruction counts (classifier-free guidance); 1 is the network as trained, more
            costs a second pass.
        weights: "bfloat16" or "int8" rounds those of linear layers, in a copy of the network; by default they stay.
        compiled: decode by a program that torch.compile makes at the first decision; for greedy decisions only.
        repeat_penalty: taken off a bin's score for each time that it was chosen at the very same observation before, in
            the same episode; for decisions of one token. See `Repeats`.

    Raises:
        RequestError: guidance of a network never trained without its instruction; other weights than there are; a
            penalty below 0, or for decisions of several tokens.
    """

    def __init__(
        self,
        network: ActionNetwork,
        spec: TokenPolicySpec,
        *,
        seed: int = 0,
        use_cache: bool = True,
        cond_scale: float = 1.0,
        weights: Weights | None = None,
        compiled: bool = False,
        repeat_penalty: float = 0.0,
    ) -> None:
        kept = checked_weights(weights or spec.weights)
        if kept != spec.weights:
            if spec.weights != "float32" or kept == "float32":
                raise RequestError(f"weights: found {kept}, expected {spec.weights}, to which the policy was rounded")
            network, spec = quantised(network, kept), replace(spec, weights=kept)
        if cond_scale != 1.0 and not spec.network.text.drop_probability:
            raise RequestError(
                f"cond_scale: found {cond_scale}, expected 1: the policy was trained with "
                "network.text.drop_probability=0 and does not know what to do without an instruction"
            )
        if repeat_penalty < 0 or (repeat_penalty and spec.tokenizer.num_tokens > 1):
            raise RequestError(
                f"repeat_penalty: found {repeat_penalty}, expected at least 0, and 0 for decisions of more than one "
                f"token; this policy's have {spec.tokenizer.num_tokens}"
            )
        self.network = network.eval()
        self.spec = spec
        self.cond_scale = cond_scale
        self.use_cache = use_cache
        self._compiled = CompiledDecoding() if compiled else None
        self._memory = FrameMemory(spec.history, first_frame=spec.first_frame)
        self._actions = ActionMemory(spec.past_actions)
        self._fields = spec.shown_fields
        self._cameras = [name for name, shape in spec.fields.items() if is_image(shape)]
        self._seen, self._seen_untold = CameraMemory(), CameraMemory()
        self._repeats = Repeats(repeat_penalty, spec.tokenizer.num_bins)
        self._queues: dict[int, list[np.ndarray]] = {}
        self._instructions = InstructionMemory(network.instruct)
        self.decisions_shown: WatchedDecisions = WatchedDecisions()
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

    def selecting(self) -> Select:
        """`select`, which likes less what was done at the same observation before."""
        return self._repeats.avoiding(self.select()) if self._repeats.penalty else self.select()

    @property
    def is_plain(self) -> bool:
        """Whether it takes the best bin of its decoder at each token, and nothing else has a say."""
        return self.select() is greedy and self.cond_scale == 1.0 and not self._repeats.penalty

    @property
    def decode(self) -> Search:
        """`decode_tokens`, or the program it was compiled to.

        Raises:
            RequestError: compiled, and decisions are not plain: every noise would be a program of its own.
        """
        if self._compiled is None:
            return decode_tokens
        if not self.is_plain:
            raise RequestError(
                "compiled: found true, expected false for a policy that samples, searches, is guided or asks its "
                "prior: only greedy decisions are compiled"
            )
        return self._compiled

    @property
    def observation_fields(self) -> dict[str, tuple[int, ...]]:
        return self._fields

    @property
    def action_space(self) -> dict[str, Any]:
        return self.spec.action_space

    @property
    def history(self) -> int:
        return self.spec.history

    @property
    def horizon(self) -> int:
        return decision_steps(self.spec.tokenizer)

    @property
    def takes_instructions(self) -> bool:
        return self.spec.network.text.encoder != "none"

    def random_action(self, generator: np.random.Generator) -> np.ndarray:
        """One action of random tokens, every existing bin equally likely; of a chunk, its first action."""
        tokens_1A = torch.as_tensor(generator.integers(self.spec.tokenizer.bins_per_token)[None])
        action: np.ndarray = self.spec.tokenizer.decode(tokens_1A)[0].numpy()
        return action[0] if isinstance(self.spec.tokenizer, ChunkTokens) else action

    def seed(self, seed: int) -> None:
        self._generator.manual_seed(seed)

    def reset(self, environment_ids: Sequence[int] | None = None) -> None:
        for memory in (self._memory, self._actions, self._repeats, self._seen, self._seen_untold):
            memory.forget(environment_ids)
        self.drop_pending(list(self._queues) if environment_ids is None else environment_ids)

    @property
    def _remembered(self) -> tuple[Any, ...]:
        return self.spec.fields, self.spec.history, self.spec.first_frame

    def pending(self, environment_id: int) -> list[np.ndarray]:
        return list(self._queues.get(environment_id, ()))

    def drop_pending(self, environment_ids: Sequence[int]) -> None:
        for environment in environment_ids:
            self._queues.pop(environment, None)

    def adopt(self, other: Policy) -> None:
        if isinstance(other, TokenPolicy) and self._remembered == other._remembered:
            self._memory, self._actions, self._queues = other._memory, other._actions, other._queues
            self._repeats.adopt(other._repeats)

    def act(
        self,
        observation: Observation,
        instruction: str | Sequence[str] | None = None,
        *,
        environment_ids: Sequence[int] | None = None,
    ) -> np.ndarray:
        frames, single = read_frames(observation, self._fields)
        rows = len(next(iter(frames.values())))
        environments = list(range(rows)) if environment_ids is None else list(environment_ids)
        texts = self._texts(instruction, rows)
        frames |= self._actions.fields(environments)
        windows = self._memory.push(frames, environments)
        shown = ShownFrames(environments, self._memory.numbers(environments))
        actions = self._from_queues(shown, windows, texts)
        for environment, action in zip(environments, actions, strict=True):
            self._actions.add(environment, action)
        return actions[0] if single else actions

    def was_done(self, environment_id: int, action: np.ndarray) -> None:
        """Tell a policy that remembers its actions what was done in the place of the last one it chose."""
        self._actions.replace_last(environment_id, action)

    def decide(
        self, windows: Mapping[str, np.ndarray], texts: Sequence[str], shown: ShownFrames | None = None
    ) -> np.ndarray:
        """Whole decisions for windows `[B, F, *shape]`: `[B, *action_shape]`, or `[B, h, *shape]` with chunks.

        `shown` says which frames they hold, so that none is encoded twice.
        """
        with torch.inference_mode():
            decoder, context = self._encode(windows, texts, shown)
            if self._repeats.penalty:
                environments = shown.environments if shown else range(len(texts))
                self._repeats.look(environments, windows, texts)
            tokens_BA = self.choose(decoder, context)

            def values(rows: list[int]) -> Tensor:
                return self.scores(self.network.decode(context[rows], tokens_BA[rows, :-1], decoder=decoder).float())

            self.decisions_shown.keep(shown.environments if shown else (), tokens_BA, values)
            decoded: np.ndarray = self.spec.tokenizer.decode(tokens_BA).cpu().numpy()
            return decoded

    def choose(self, decoder: Decoder, context: Tensor) -> Tensor:
        """The tokens `[B, A]` of a decision, one after the other as `select` says."""
        tokens_BA, _ = self.decode(
            decoder,
            context,
            self.selecting(),
            score=self.scores,
            token_mask_AK=self._token_mask(),
            use_cache=self.use_cache,
        )
        return tokens_BA

    def action_values(
        self, observations: Mapping[str, np.ndarray], instruction: str | None, actions: np.ndarray
    ) -> np.ndarray:
        """Scores of every bin along one episode, given the actions it took: `[T, A, K]`.

        Args:
            observations: every field `[T or T + 1, *shape]`, from the start of the episode.
            actions: `[T, *action_shape]`.
        """
        windows, tokens_TA = self._along(observations, actions)
        with torch.inference_mode():
            decoder, context = self._encode(windows, self._texts(instruction, len(actions)))
            logits = self.network.decode(context, tokens_TA[:, :-1], decoder=decoder)
            values: np.ndarray = self.scores(logits.float()).cpu().numpy()
        return values

    def attention(
        self, observations: Mapping[str, np.ndarray], instruction: str | None, actions: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Where in each camera's frame the scores of the actions taken come from: `[T, h, w]`, see `camera_attention`.

        Arguments as of `action_values`; nothing without cameras. With `data.random_crop` only the crop is seen.
        """
        windows, tokens_TA = self._along(observations, actions)
        texts = self._texts(instruction, len(actions))
        instructions = self.network.instruct(texts) if self.takes_instructions else self._null(len(texts))
        found = camera_attention(self.network, self._observation(windows), instructions, tokens_TA, self.scores)
        return {name: attention.cpu().numpy() for name, attention in found.items()}

    def _along(
        self, observations: Mapping[str, np.ndarray], actions: np.ndarray
    ) -> tuple[dict[str, np.ndarray], Tensor]:
        """The windows `[T, F, *shape]` of an episode, and the tokens `[T, A]` of what was done."""
        steps = len(actions)
        rows_TF = np.maximum(np.arange(steps)[:, None] - frames_back(self.spec.history, self.spec.first_frame), 0)
        windows = {name: np.asarray(observations[name])[rows_TF] for name in self._fields}
        if self.spec.past_actions is not None:
            windows[PAST_ACTIONS] = self.spec.past_actions.along(np.asarray(actions), rows_TF)
        if isinstance(self.spec.tokenizer, ChunkTokens):
            ahead = np.minimum(np.arange(steps)[:, None] + np.arange(self.spec.tokenizer.steps), steps - 1)
            actions = actions[ahead]
        return windows, self.spec.tokenizer.encode(torch.as_tensor(np.asarray(actions))).to(self.network.device)

    def save_pretrained(self, folder: str | Path) -> None:
        write_policy(self.kind, self.spec, self.network.state_dict(), Path(folder))

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> Self:
        folder = locate_policy(source)
        description = read_description(folder)
        if description["kind"] != cls.kind:
            raise RequestError(f"{folder}: found a policy of kind '{description['kind']}', expected '{cls.kind}'")
        try:
            spec = TokenPolicySpec.from_dict(description)
        except (KeyError, TypeError, ValueError, ConfigError) as error:
            raise DataError(f"{folder / DESCRIPTION}: does not describe a policy ({error!r})") from error
        network = cls.build_network(replace(spec, network=unpublished(spec.network)), spec.blank_layouts())
        if spec.weights != "float32":
            network = quantised(network, spec.weights)
        load_weights(network, folder)
        return cls(network, spec, **options)

    def describe(self) -> dict[str, Any]:
        parameters = sum(p.numel() for p in self.network.parameters())
        return {"kind": self.kind, "parameters": parameters, **self.spec.to_dict()}

    def _from_queues(self, shown: ShownFrames, windows: Mapping[str, np.ndarray], texts: Sequence[str]) -> np.ndarray:
        """A chunk is decided once and played step by step."""
        environments = shown.environments
        if not isinstance(self.spec.tokenizer, ChunkTokens):
            return self.decide(windows, texts, shown)
        empty = [row for row, environment in enumerate(environments) if not self._queues.get(environment)]
        if empty:
            chunks = self.decide({n: w[empty] for n, w in windows.items()}, [texts[row] for row in empty], shown[empty])
            for row, chunk in zip(empty, chunks, strict=True):
                self._queues[environments[row]] = list(chunk)
        return np.stack([self._queues[environment].pop(0) for environment in environments])

    def _texts(self, instruction: str | Sequence[str] | None, rows: int) -> list[str]:
        return read_instructions(
            instruction,
            rows,
            default=self.spec.default_instruction,
            taken=self.takes_instructions,
            needed=self.spec.needs_instruction,
        )

    def _encode(
        self, windows: Mapping[str, np.ndarray], texts: Sequence[str], shown: ShownFrames | None = None
    ) -> tuple[Decoder, Tensor]:
        """What decodes, and the context it reads: `[B, S, D]`, or with guidance `[B, 2, S, D]`."""
        network = self.network
        instruction = self._instructions(texts)
        observation = self._observation(windows)
        if not (self.use_cache and self.spec.history > 1 and self._cameras):
            shown = None
        seen = None if shown is None else self._seen.see(observation, instruction, texts, shown, network.see)
        if self.cond_scale == 1.0:
            return network.decoder, network.encode(observation, instruction, seen)
        guided = GuidedDecoder(network.decoder, self.cond_scale)
        if shown is None or seen is None:
            return guided, guided_context(network, observation, instruction)
        null = self._null(len(texts))
        untold = self._seen_untold.see(observation, null, [""] * len(texts), shown, network.see)
        return guided, guided_context(network, observation, instruction, (seen, untold))

    def _observation(self, windows: Mapping[str, np.ndarray]) -> dict[str, Tensor]:
        device = self.network.device
        return {name: self._cropped(torch.from_numpy(values).to(device)) for name, values in windows.items()}

    def _null(self, rows: int) -> Instruction:
        return self.network.encoder.instruction.null(rows)

    def _cropped(self, frames: Tensor) -> Tensor:
        is_camera = self.spec.crop and frames.ndim == 5
        return center_crop(frames, (self.spec.crop, self.spec.crop)) if is_camera else frames

    def _token_mask(self) -> Tensor | None:
        mask_AK = self.spec.tokenizer.token_mask
        return None if mask_AK is None else mask_AK.to(self.network.device)
