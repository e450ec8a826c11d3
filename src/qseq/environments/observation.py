"""One observation form for every environment: a flat dictionary of named arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import numpy.typing as npt

from qseq.errors import RequestError

Array = npt.NDArray[Any]
Observation = dict[str, Array]
Getter = Callable[[Any], Any]

TEXT_FIELDS = ("mission", "instruction")


class DictObservation(gym.Wrapper[Any, Any, Any, Any]):
    """Observations become ``{name: array}``, actions are given in the space's own type.

    - A plain Box becomes ``{"state": ...}``; a Dict keeps its names, nested names are joined with "/".
    - Numbers become float32; uint8 boxes of three dimensions (images) stay uint8, channels first: [H, W, C] with one,
      three or four channels becomes [C, H, W].
    - Discrete, MultiDiscrete and MultiBinary observations become float32 one-hot (or 0/1) vectors.
    - A text field called "mission" or "instruction" is left out and put into ``info["instruction"]``.
    - An episode that ends by itself at the time limit is terminated, not truncated: never both.

    Raises:
        RequestError: the observation or action space is of an unsupported type.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._fields: dict[str, tuple[Getter, Getter]] = {}
        self._text: Getter | None = None
        spaces: dict[str, gym.Space[Any]] = {}
        self._collect("", env.observation_space, lambda observation: observation, spaces)
        if not spaces:
            raise RequestError(f"environment {_name(env)} has no numeric observation: {env.observation_space}")
        self.observation_space = gym.spaces.Dict(spaces)
        if not isinstance(env.action_space, gym.spaces.Box | gym.spaces.Discrete | gym.spaces.MultiDiscrete):
            raise RequestError(
                f"environment {_name(env)} has actions {env.action_space}: expected Box, Discrete or MultiDiscrete; "
                "wrap the environment so that its actions are one of these"
            )

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._convert(observation), self._with_text(observation, info)

    def step(self, action: Any) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(self.native_action(action))
        converted = self._convert(observation)
        ended = bool(terminated)
        return (
            converted,
            float(np.asarray(reward).item()),
            ended,
            bool(truncated) and not ended,
            self._with_text(observation, info),
        )

    def native_action(self, action: Any) -> Any:
        """The action as the wrapped environment's own space wants it: an int, or an array of its dtype and shape."""
        space = self.env.action_space
        if isinstance(space, gym.spaces.Discrete):
            return int(np.asarray(action).item())
        return np.asarray(action, dtype=space.dtype).reshape(space.shape)

    def _collect(self, name: str, space: gym.Space[Any], get: Getter, spaces: dict[str, gym.Space[Any]]) -> None:
        if isinstance(space, gym.spaces.Dict):
            for key, inner in space.spaces.items():
                self._collect(f"{name}/{key}" if name else key, inner, _item(get, key), spaces)
            return
        if isinstance(space, gym.spaces.Text) or type(space).__name__ == "MissionSpace":
            if name.rsplit("/", 1)[-1] not in TEXT_FIELDS:
                raise RequestError(
                    f"environment {_name(self.env)} observes text in field '{name or 'state'}': "
                    f"only fields called {' or '.join(TEXT_FIELDS)} are understood; remove it with a wrapper"
                )
            self._text = get
            return
        field, converted, convert = name or "state", *_numeric(self.env, name or "state", space)
        spaces[field] = converted
        self._fields[field] = (get, convert)

    def _convert(self, observation: Any) -> Observation:
        return {name: convert(get(observation)) for name, (get, convert) in self._fields.items()}

    def _with_text(self, observation: Any, info: dict[str, Any]) -> dict[str, Any]:
        if self._text is None:
            return info
        return {**info, "instruction": str(self._text(observation))}


def _item(get: Getter, key: str) -> Getter:
    return lambda observation: get(observation)[key]


def _numeric(env: gym.Env[Any, Any], name: str, space: gym.Space[Any]) -> tuple[gym.Space[Any], Getter]:
    """The converted space of one field and the function that converts its values."""
    if isinstance(space, gym.spaces.Box):
        if space.dtype == np.uint8 and len(space.shape) == 3:
            if _channels_last(space.shape):
                turned = gym.spaces.Box(space.low.transpose(2, 0, 1), space.high.transpose(2, 0, 1), dtype=np.uint8)
                return turned, lambda value: np.ascontiguousarray(np.asarray(value, dtype=np.uint8).transpose(2, 0, 1))
            return space, lambda value: np.array(value, dtype=np.uint8)
        low, high = space.low.astype(np.float32), space.high.astype(np.float32)
        return gym.spaces.Box(low, high, space.shape, np.float32), lambda value: np.array(value, dtype=np.float32)
    if isinstance(space, gym.spaces.Discrete):
        count, start = int(space.n), int(space.start)
        return _unit_box(count), lambda value: _one_hot([int(value) - start], [count])
    if isinstance(space, gym.spaces.MultiDiscrete):
        counts, starts = space.nvec.ravel(), space.start.ravel()
        return _unit_box(int(counts.sum())), lambda value: _one_hot(np.ravel(value) - starts, counts)
    if isinstance(space, gym.spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return _unit_box(size), lambda value: np.ravel(value).astype(np.float32)
    raise RequestError(
        f"environment {_name(env)} observes {type(space).__name__} in field '{name}': expected Box, Discrete, "
        "MultiDiscrete, MultiBinary or a Dict of these; convert it with a Gymnasium wrapper"
    )


def _channels_last(shape: tuple[int, ...]) -> bool:
    return shape[-1] in (1, 3, 4) and shape[0] not in (1, 3)


def _unit_box(size: int) -> gym.spaces.Box:
    return gym.spaces.Box(0.0, 1.0, (size,), np.float32)


def _one_hot(values: Any, counts: Any) -> Array:
    parts = []
    for value, count in zip(values, counts, strict=True):
        part = np.zeros(int(count), dtype=np.float32)
        part[int(value)] = 1.0
        parts.append(part)
    return np.concatenate(parts)


def _name(env: gym.Env[Any, Any]) -> str:
    return env.spec.id if env.spec is not None else type(env.unwrapped).__name__
