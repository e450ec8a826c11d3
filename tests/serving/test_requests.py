"""What clients say: fields by their names, instructions, and one clear line for what is wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qseq.errors import RequestError
from qseq.serving.requests import RequestReader
from tests.policies.test_cameras_and_instructions import make_policy as make_camera_policy
from tests.policies.test_token_policy import make_policy
from tests.serving.tools import states

STATE = states(1)[0]


def reader(**rename: str) -> RequestReader:
    return RequestReader(make_policy(), rename, longest_instruction=20)


def camera_reader(rename: dict[str, str]) -> RequestReader:
    return RequestReader(make_camera_policy(), rename, longest_instruction=20)


def test_numbers_of_every_kind_become_float32() -> None:
    for given in (STATE, STATE.astype(np.float64), STATE.astype(np.float32).tolist()):
        frame = reader().read({"state": given}).frames["state"]
        assert frame.dtype == np.float32
        np.testing.assert_array_equal(frame, STATE)


def test_fields_are_found_by_the_names_of_the_client_and_by_path() -> None:
    renamed = camera_reader({"observation/image": "image", "task": "prompt"})
    image = np.arange(768, dtype=np.uint8).reshape(16, 16, 3)
    flat = renamed.read({"observation/image": image, "task": "push"})
    nested = renamed.read({"observation": {"image": image.transpose(2, 0, 1), "gripper": 1.0}, "prompt": "push"})
    for request in (flat, nested):  # channels last are turned
        np.testing.assert_array_equal(request.frames["image"], image.transpose(2, 0, 1))
        assert request.instruction == "push"
    with pytest.raises(RequestError, match=r"observation/image=pixels: found 'pixels', expected one of image, prompt"):
        camera_reader({"observation/image": "pixels"})


def test_images_of_bytes_and_of_floats_are_told_apart() -> None:
    of_bytes = camera_reader({}).read({"image": np.zeros((3, 16, 16), np.uint8)})
    of_floats = camera_reader({}).read({"image": np.zeros((3, 16, 16), np.float64)})
    assert of_bytes.types != of_floats.types


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, r"field 'state' is missing; found \[\], expected \['state'\]"),
        ({"joints": STATE}, r"field 'state' is missing; found \['joints'\]"),
        ({"state": STATE[:2]}, r"'state' has shape \[2\], expected \[3\]"),
        ({"state": STATE[None]}, "'state' is a batch, expected one observation"),
        ({"state": "push"}, "'state' is str, expected an array of numbers"),
        ({"state": [[1, 2], [3]]}, "'state' is list, expected an array"),
        ({"state": [None, 1, 2]}, "'state' is list, expected an array"),
        ({"state": [10**400, 1, 2]}, "'state' is list, expected an array"),
        ({"state": b"abc"}, "'state' is bytes, expected an array"),
        ({"state": {"x": 1}}, r"field 'state' is missing; found \['state/x'\]"),
        ({"state": [1.0, float("nan"), 2.0]}, "NaN or infinity"),
        ({"state": [1e39, 0.0, 2.0]}, "NaN or infinity"),
        ({"state": STATE, "reset": "yes"}, "'reset' is str, expected true or false"),
        ({"state": STATE, "continue": 1}, "'continue' is int, expected true or false"),
        ({"state": STATE, "prompt": 3}, "'prompt' is int, expected a text"),
        ({"state": STATE, "prompt": "a", "instruction": "b"}, "differ"),
        ({"state": STATE, "prompt": "a" * 21}, "found 21 characters, expected at most 20"),
    ],
)
def test_what_is_wrong_is_said(message: dict[str, Any], expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        reader().read(message)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (np.zeros((3, 16, 15), np.uint8), r"'image' has shape \[3, 16, 15\]"),
        (np.zeros((3, 16, 16), np.int64), "image 'image' is int64"),
        (np.full((3, 16, 16), 255.0), "image 'image' is float32 in"),
    ],
)
def test_images_that_are_none_are_refused(image: np.ndarray, expected: str) -> None:
    with pytest.raises(RequestError, match=expected):
        camera_reader({}).read({"image": image})
