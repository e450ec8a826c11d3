"""Shifts and crops: known ones by value, the same for a window's frames, drawn by the generator and from its range."""

from __future__ import annotations

import pytest
import torch

from qseq.networks.vision import center_crop, crop, random_crop, random_shift

B, F, C, HEIGHT, WIDTH = 5, 3, 2, 6, 7


def frames_with_places(batch: int = B) -> torch.Tensor:
    """Every pixel is 10 * row + column, plus 100 for the second channel: it says where it came from."""
    rows_HW, columns_HW = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    plane_HW = 10 * rows_HW + columns_HW
    return torch.stack((plane_HW, plane_HW + 100)).expand(batch, F, C, HEIGHT, WIDTH).to(torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_known_crop_by_value() -> None:
    frames = frames_with_places(2)
    out = crop(frames, torch.tensor([-2, 3]), torch.tensor([1, 5]), (4, 3))
    assert out.dtype == torch.uint8
    # The first window lies two rows above the image: the edge is repeated.
    assert out[0, 1, 0].tolist() == [[1, 2, 3], [1, 2, 3], [1, 2, 3], [11, 12, 13]]
    # The second one sticks out below and to the right.
    assert out[1, 2, 1].tolist() == [[135, 136, 136], [145, 146, 146], [155, 156, 156], [155, 156, 156]]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_shifts_are_crops_by_offsets_in_range_and_all_of_them_occur(dtype: torch.dtype) -> None:
    frames = frames_with_places(400).to(dtype)
    out = random_shift(frames, 2, generator())
    assert out.shape == frames.shape
    assert out.dtype == dtype
    # Row 3, column 3 is far enough inside to show the shift as it is.
    centre_B = out[:, 0, 0, 3, 3].int()
    vertical_B, horizontal_B = centre_B // 10 - 3, centre_B % 10 - 3
    pairs = set(zip(vertical_B.tolist(), horizontal_B.tolist(), strict=True))
    assert pairs == {(row, column) for row in range(-2, 3) for column in range(-2, 3)}
    assert torch.equal(out, crop(frames, vertical_B.long(), horizontal_B.long(), (HEIGHT, WIDTH)))


@pytest.mark.parametrize("augment", ["shift", "crop"])
def test_all_frames_and_channels_of_a_window_move_alike_but_windows_do_not(augment: str) -> None:
    frames = frames_with_places(50)
    out = random_shift(frames, 2, generator()) if augment == "shift" else random_crop(frames, (3, 4), generator())
    assert (out == out[:, :1]).all()
    assert (out[:, :, 1] == out[:, :, 0] + 100).all()
    assert len({tuple(window.flatten().tolist()) for window in out}) > 5


def test_deterministic_by_the_generator() -> None:
    frames = frames_with_places()
    assert torch.equal(random_shift(frames, 3, generator(1)), random_shift(frames, 3, generator(1)))
    assert not torch.equal(random_shift(frames, 3, generator(1)), random_shift(frames, 3, generator(2)))
    torch.manual_seed(0)
    first = random_crop(frames, (3, 3), generator(1))
    torch.manual_seed(5)
    assert torch.equal(random_crop(frames, (3, 3), generator(1)), first)
    drawn = generator(1)
    assert not torch.equal(random_crop(frames, (3, 3), drawn), random_crop(frames, (3, 3), drawn))


def test_no_shift_changes_nothing() -> None:
    frames = frames_with_places()
    assert torch.equal(random_shift(frames, 0, generator()), frames)


def test_crops_lie_inside_and_reach_every_place() -> None:
    frames = frames_with_places(400)
    out = random_crop(frames, (4, 6), generator())
    assert out.shape == (400, F, C, 4, 6)
    corners = set(out[:, 0, 0, 0, 0].tolist())
    assert corners == {10 * row + column for row in range(3) for column in range(2)}
    # Inside, so no row or column is repeated: neighbours always differ by one place.
    assert (out[..., 1:, :].int() - out[..., :-1, :].int() == 10).all()
    assert (out[..., 1:].int() - out[..., :-1].int() == 1).all()
    assert torch.equal(random_crop(frames, (HEIGHT, WIDTH), generator()), frames)


def test_center_crop_by_value() -> None:
    assert center_crop(frames_with_places(), (2, 3))[0, 0, 0].tolist() == [[22, 23, 24], [32, 33, 34]]


def test_the_input_stays() -> None:
    frames = frames_with_places().clone()
    random_shift(frames, 2, generator())
    assert torch.equal(frames, frames_with_places())


def test_sizes_that_do_not_fit_are_refused() -> None:
    frames = frames_with_places()
    with pytest.raises(ValueError, match="shift of 6 pixels for frames of 6 x 7"):
        random_shift(frames, 6, generator())
    with pytest.raises(ValueError, match="shift of -1 pixels"):
        random_shift(frames, -1, generator())
    with pytest.raises(ValueError, match="crop of 7 x 3 pixels from frames of 6 x 7"):
        random_crop(frames, (7, 3), generator())
    with pytest.raises(ValueError, match="crop of 0 x 3"):
        center_crop(frames, (0, 3))
    with pytest.raises(ValueError, match=r"expected \[batch, frames, channels, height, width\]"):
        random_shift(frames[0], 1, generator())
