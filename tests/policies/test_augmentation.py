"""Shifted frames: the same for every frame of a window and every reading of a batch, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qseq import Episode
from qseq.episodes import Windows, WindowSpec
from qseq.errors import RequestError
from qseq.policies.augmentation import CroppedWindows, ShiftedWindows
from tests.robot.bandit import DISCRETE_SPACE, corner_episodes, write_view


def windows(folder: Path) -> Windows:
    random = np.random.default_rng(0)
    episodes = [
        Episode(
            observations={
                "image": np.repeat(random.integers(0, 256, (1, 3, 12, 12)), 4, axis=0).astype(np.uint8),
                "state": random.normal(size=(4, 2)).astype(np.float32),
            },
            actions=np.ones(3, np.int64),
            rewards=np.zeros(3, np.float32),
            terminated=False,
            truncated=True,
            success=False,
        )
        for _ in range(6)
    ]
    view = write_view(folder, episodes, DISCRETE_SPACE)
    return Windows(view, WindowSpec(history=2, bootstrap_steps=(1,)), batch_size=16, seed=0, discount=0.9)


def test_frames_of_a_window_move_alike_and_again_the_same(tmp_path: Path) -> None:
    plain = windows(tmp_path / "store")
    shifted = ShiftedWindows(plain, pixels=3, seed=5)
    for index in range(3):
        before, after = plain.batch_at(index), shifted.batch_at(index)
        images = after.frames["image"]
        assert images.dtype == torch.uint8
        # The pictures of an episode are all the same, so frames that moved alike are still equal.
        assert (images == images[:, :1]).all()
        moved = (images != before.frames["image"]).flatten(1).any(1)
        assert moved.float().mean() > 0.7
        assert torch.equal(after.frames["state"], before.frames["state"])
        assert torch.equal(after.returns_to_go, before.returns_to_go)
        assert torch.equal(images, shifted.batch_at(index).frames["image"])
    other = ShiftedWindows(plain, pixels=3, seed=6).batch_at(0).frames["image"]
    assert not torch.equal(other, shifted.batch_at(0).frames["image"])


@pytest.mark.parametrize("pixels", [12, 40])
def test_shifts_as_large_as_the_image_are_refused(tmp_path: Path, pixels: int) -> None:
    with pytest.raises(RequestError, match=rf"data.random_shift: found {pixels}.*12 pixels of a side of 'image'"):
        ShiftedWindows(windows(tmp_path / "store"), pixels=pixels, seed=0)


def test_data_without_a_camera_cannot_be_shifted(tmp_path: Path) -> None:
    plain = Windows(write_view(tmp_path, corner_episodes(3)), WindowSpec(), batch_size=2, seed=0, discount=0.9)
    with pytest.raises(RequestError, match=r"data\.random_shift: found 2, expected 0: the data have no camera"):
        ShiftedWindows(plain, pixels=2, seed=0)


def test_crops_are_cut_alike_for_all_frames_of_a_window_and_again_the_same(tmp_path: Path) -> None:
    plain = windows(tmp_path / "store")
    cropped = CroppedWindows(plain, pixels=8, seed=5)
    before, after = plain.batch_at(1).frames["image"], cropped.batch_at(1).frames["image"]
    assert after.shape == (*before.shape[:3], 8, 8)
    assert (after == after[:, :1]).all()
    assert torch.equal(after, cropped.batch_at(1).frames["image"])
    places = set()
    for window, cut in zip(before[:, 0], after[:, 0], strict=True):
        found = [
            (top, left)
            for top in range(5)
            for left in range(5)
            if torch.equal(window[:, top : top + 8, left : left + 8], cut)
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 5
    with pytest.raises(RequestError, match=r"data.random_crop: found 13, expected at most the 12 pixels of a side"):
        CroppedWindows(plain, pixels=13, seed=0)
