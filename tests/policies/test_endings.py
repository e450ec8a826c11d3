"""The first batches are of the last steps of episodes, and all later ones what they would have been."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from qseq import Episode
from qseq.episodes import EpisodeView, Windows, WindowSpec
from qseq.errors import RequestError
from qseq.policies.augmentation import ShiftedWindows
from qseq.policies.endings import EndingBatch, EndingsFirst
from tests.robot.bandit import DISCRETE_SPACE, write_view


def view_of(folder: Path, outcomes: str = "+-+-+") -> EpisodeView:
    episodes = [
        Episode(
            observations={
                "image": np.full((length + 1, 3, 12, 12), number, np.uint8),
                "state": np.arange(length + 1, dtype=np.float32)[:, None],
            },
            actions=np.ones(length, np.int64),
            rewards=np.zeros(length, np.float32),
            terminated=True,
            truncated=False,
            success=outcome == "+",
        )
        for number, (length, outcome) in enumerate(zip([1, 4, 3, 2, 5], outcomes, strict=True))
    ]
    return write_view(folder, episodes, DISCRETE_SPACE)


def windows_of(view: EpisodeView) -> Windows:
    return Windows(view, WindowSpec(bootstrap_steps=(2,)), batch_size=32, seed=0, discount=0.9)


def test_endings_come_first_and_all_steps_after(tmp_path: Path) -> None:
    view = view_of(tmp_path / "store")
    plain = windows_of(view)
    endings = EndingsFirst(plain, view, batches=3, seed=5)
    seen: set[int] = set()
    for index in range(3):
        batch = endings.batch_at(index)
        assert isinstance(batch, EndingBatch)
        assert isinstance(batch.to("cpu"), EndingBatch)  # as the trainer moves it
        assert len(batch) == 32
        # The first third are successes only.
        assert batch.achieved[:, 0].tolist() == ([True] * 32 if index == 0 else [True] * 16 + [False] * 16)
        assert torch.equal(batch.achieved[:, 0], torch.from_numpy(view.success == 1)[batch.episodes])
        lengths = torch.from_numpy(view.lengths)[batch.episodes]
        assert torch.equal(batch.steps, lengths - 1)
        assert torch.equal(batch.frames["state"][:, -1, 0], lengths.float())
        assert torch.equal(batch.episodes, endings.batch_at(index).episodes)
        seen |= set(batch.episodes.tolist())
    assert seen == {0, 1, 2, 3, 4}
    for index in (3, 4):
        batch = endings.batch_at(index)
        assert not isinstance(batch, EndingBatch)
        assert torch.equal(batch.steps, plain.batch_at(index).steps)
    other = EndingsFirst(plain, view, batches=3, seed=6).batch_at(0)
    assert not torch.equal(other.episodes, endings.batch_at(0).episodes)


def test_endings_are_augmented_as_all_are(tmp_path: Path) -> None:
    view = view_of(tmp_path / "store")
    shifted = ShiftedWindows(EndingsFirst(windows_of(view), view, batches=1, seed=5), pixels=3, seed=5).batch_at(0)
    assert isinstance(shifted, EndingBatch)


def test_without_a_success_there_are_no_endings(tmp_path: Path) -> None:
    view = view_of(tmp_path / "store", "-----")
    EndingsFirst(windows_of(view), view, batches=0, seed=0)
    with pytest.raises(RequestError, match=r"objective.matching_steps: found 3, expected 0: none of the 5"):
        EndingsFirst(windows_of(view), view, batches=3, seed=0)


def test_without_failures_all_endings_are_of_successes(tmp_path: Path) -> None:
    view = view_of(tmp_path / "store", "+++++")
    batch = EndingsFirst(windows_of(view), view, batches=1, seed=0).batch_at(0)
    assert len(batch) == 32
    assert batch.achieved.all()
