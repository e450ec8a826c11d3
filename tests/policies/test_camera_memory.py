"""A decision encodes only frames that are new, and decides as if it had encoded them all."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from qseq.observations import FrameMemory
from qseq.robot import QTransformerPolicy
from tests.policies.test_cameras_and_instructions import make_policy


def film(steps: int, environments: int = 3) -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (steps, environments, 3, 16, 16)).astype(np.uint8)


def watched(policy: QTransformerPolicy) -> list[int]:
    """Images that the tower is shown, call by call."""
    counts: list[int] = []
    tower: Any = policy.network.encoder.encoders[0].tower
    tower.register_forward_pre_hook(lambda _, inputs: counts.append(len(inputs[0])))
    return counts


def contexts(policy: QTransformerPolicy) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    policy.network.encoder.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    return found


@pytest.mark.parametrize("options", [{}, {"cond_scale": 3.0}, {"first_frame": True}, {"looks_by_state": True}])
def test_decisions_are_the_same_and_each_frame_is_encoded_once(options: dict[str, Any]) -> None:
    text = {"drop_probability": 0.1}
    remembering = make_policy(text=text, history=3, **options)
    plain = make_policy(text=text, history=3, use_cache=False, **options)
    passes = 2 if "cond_scale" in options else 1
    counts, both = watched(remembering), (contexts(remembering), contexts(plain))
    texts = ["push", "pull", "push"]
    for step, frames in enumerate(film(6)):
        if step == 4:
            texts = ["push", "push", "push"]  # the second environment is told something else
        if step == 5:
            remembering.reset([2])
            plain.reset([2])
        shown: dict[str, Any] = {"image": frames}
        if "looks_by_state" in options:
            shown["state"] = np.full((3, 2), step, np.float32)
        np.testing.assert_array_equal(remembering.act(shown, texts), plain.act(shown, texts))
    for first, second in zip(*both, strict=True):
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-5)
    # Three new frames a step; at the fourth the other two of one environment again, for the instruction's sake.
    assert counts == [count for step in range(6) for count in [3 + 2 * (step == 4), 3][:passes]]


def test_environments_may_sit_out_and_decisions_be_rare() -> None:
    remembering, plain = make_policy(history=3), make_policy(history=3, use_cache=False)
    for step, frames in enumerate(film(8)):
        rows = [row for row in range(3) if (step + row) % 3]
        images: dict[str, Any] = {"image": frames[rows]}
        found, expected = (
            p.act(images, "push", environment_ids=[10 * row for row in rows]) for p in (remembering, plain)
        )
        np.testing.assert_array_equal(found, expected)


def test_a_chunk_looks_at_the_frames_it_did_not_look_at_before() -> None:
    remembering, plain = (make_policy(history=3, chunk=2, use_cache=cache) for cache in (True, False))
    counts = watched(remembering)
    for frames in film(7, environments=1):
        images: dict[str, Any] = {"image": frames}
        np.testing.assert_array_equal(remembering.act(images, "push"), plain.act(images, "push"))
    assert counts == [1, 2, 2, 2]


def test_the_first_frame_is_kept() -> None:
    memory = FrameMemory(3, first_frame=True)
    shown, numbers = [], []
    for frame in range(5):
        shown.append(memory.push({"x": np.full((1, 1), frame)}, [7])["x"][0, :, 0].tolist())
        numbers.append(memory.numbers([7])[0].tolist())
    assert shown == numbers == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [0, 2, 3], [0, 3, 4]]
    memory.forget([7])
    assert memory.push({"x": np.full((1, 1), 9)}, [7])["x"][0, :, 0].tolist() == [9, 9, 9]


def test_frames_are_numbered_from_the_start_of_an_episode() -> None:
    memory = FrameMemory(3)
    frame = {"x": np.zeros((1, 2), np.float32)}
    found = []
    for _ in range(4):
        memory.push(frame, [7])
        found.append(memory.numbers([7])[0].tolist())
    assert found == [[0, 0, 0], [0, 0, 1], [0, 1, 2], [1, 2, 3]]
    memory.forget([7])
    memory.push(frame, [7])
    assert memory.numbers([7])[0].tolist() == [0, 0, 0]
