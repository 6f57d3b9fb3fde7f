"""Windows of an image: where they lie, and which of them show anatomy."""

import itertools
from functools import cache

import numpy as np
import pytest
import torch

from mi_callback.images.config import WINDOW
from mi_callback.images.windows import (
    WINDOWS,
    WINDOWS_PER_SIDE,
    middle_window,
    structured_windows,
    window_masks,
    window_weights,
)

pytestmark = pytest.mark.numeric


@cache
def overlap(cell: int, cells: int, window: int) -> float:
    """Share of a window along one side that lies in one cell, by counting fine steps."""
    steps = 2520  # divisible by every number of cells in these tests, and by the quarters at which windows begin
    inside = [
        WINDOW.share * window / (WINDOWS_PER_SIDE - 1)
        <= (step + 0.5) / steps
        < WINDOW.share * window / (WINDOWS_PER_SIDE - 1) + WINDOW.share
        for step in range(cell * steps // cells, (cell + 1) * steps // cells)
    ]
    return sum(inside) / (WINDOW.share * steps)


def deviation(image: np.ndarray) -> np.ndarray:
    """Standard deviation over 9 × 9 pixels around each, fewer at the border."""
    h, w = image.shape
    return np.array([[image[max(0, y - 4) : y + 5, max(0, x - 4) : x + 5].std() for x in range(w)] for y in range(h)])


@pytest.fixture
def lopsided(generator):
    """Three images with anatomy on the left, above, and everywhere; all else is flat."""
    images = torch.rand(3, 1, 32, 32, generator=generator)
    images[0, ..., 10:] = 0.2
    images[1, :, 14:] = 0.0
    return images


# Definition


@pytest.mark.parametrize(("height", "width"), [(6, 6), (12, 12), (7, 5), (5, 8), (1, 1), (1, 3), (24, 2)])
def test_weights_are_the_share_of_each_window_that_lies_in_each_cell(height, width):
    found = window_weights(height, width)
    assert found.shape == (WINDOWS, height * width)
    windows = itertools.product(range(WINDOWS_PER_SIDE), range(WINDOWS_PER_SIDE))
    for weight, (down, across) in zip(found.view(WINDOWS, height, width), windows, strict=True):
        for y, x in itertools.product(range(height), range(width)):
            assert float(weight[y, x]) == pytest.approx(overlap(y, height, down) * overlap(x, width, across), abs=1e-3)


@pytest.mark.parametrize("shape", [(3, 6, 4), (1, 2, 3)])
def test_weights_of_volumes_are_those_along_each_axis_multiplied(shape):
    found = window_weights(*shape)
    assert found.shape == (WINDOWS_PER_SIDE**3, torch.Size(shape).numel())
    windows = itertools.product(range(WINDOWS_PER_SIDE), repeat=3)
    for weight, window in zip(found.view(-1, *shape), windows, strict=True):
        for place in itertools.product(*map(range, shape)):
            expected = np.prod([overlap(at, side, k) for at, side, k in zip(place, shape, window, strict=True)])
            assert float(weight[place]) == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("side", [7, 12])
def test_masks_of_volumes_are_the_windows_and_last_the_whole(side):
    found = window_masks(side, 3)
    assert found.shape == (WINDOWS_PER_SIDE**3 + 1, 1, side, side, side)
    for mask, window in zip(found[:-1, 0], itertools.product(range(WINDOWS_PER_SIDE), repeat=3), strict=True):
        z, y, x = (
            torch.tensor([at + 1 > start * side / 4 and at < start * side / 4 + side / 2 for at in range(side)])
            for start in window
        )
        assert torch.equal(mask, (z[:, None, None] & y[:, None] & x).float())
    assert (found[-1] == 1).all()


@pytest.mark.parametrize("side", [7, 12, 24, 96])
def test_masks_are_the_windows_and_last_the_whole(side):
    found = window_masks(side)
    assert found.shape == (WINDOWS + 1, 1, side, side)
    for mask, (down, across) in zip(
        found[:-1, 0], itertools.product(range(WINDOWS_PER_SIDE), range(WINDOWS_PER_SIDE)), strict=True
    ):
        rows, columns = (
            torch.tensor(
                [place + 1 > window * side / 4 and place < window * side / 4 + side / 2 for place in range(side)]
            )
            for window in (down, across)
        )
        assert torch.equal(mask, (rows[:, None] & columns).float())
    assert torch.equal(found[-1], torch.ones(1, side, side))


def test_a_window_is_structured_from_a_quarter_of_the_contrast_of_the_image(lopsided, generator):
    strengths = torch.tensor([0.05, 0.08, 0.1, 0.12, 0.15])
    faint = lopsided[:1].repeat(5, 1, 1, 1)
    faint[..., 10:] += strengths.view(5, 1, 1, 1) * torch.rand(5, 1, 32, 22, generator=generator)
    shares = []
    for image, found in zip(faint, structured_windows(faint), strict=True):
        contrast = deviation(image[0].double().numpy())
        windows = itertools.product((0, 8, 16), (0, 8, 16))
        shares.append([contrast[y : y + 16, x : x + 16].mean() / contrast.mean() for y, x in windows])
        assert found.tolist() == [share >= WINDOW.structured for share in shares[-1]]
    near = np.array(shares)
    assert ((near < WINDOW.structured) & (near > 0.5 * WINDOW.structured)).any()
    assert ((near > WINDOW.structured) & (near < 1.5 * WINDOW.structured)).any()
    assert not (abs(near - WINDOW.structured) < 1e-3).any()


def test_channels_count_by_their_mean(lopsided):
    colour = torch.cat([1.5 * lopsided, 0.5 * lopsided, lopsided], dim=1)
    assert torch.equal(structured_windows(colour), structured_windows(lopsided))


# Promise


@pytest.mark.parametrize(
    "shape", [(6, 6), (12, 12), (7, 5), (1, 1), (11, 96), (48, 48), (6, 6, 6), (5, 8, 1), (1, 1, 1), (12, 7, 24)]
)
def test_the_weights_of_a_window_sum_to_one(shape):
    found = window_weights(*shape)
    assert torch.allclose(found.sum(dim=1), torch.ones(WINDOWS_PER_SIDE ** len(shape)), atol=1e-5)
    assert found.min() >= 0


def test_no_window_is_the_whole():
    assert torch.equal(window_masks(12)[torch.tensor([-1])], torch.ones(1, 1, 12, 12))


def test_every_place_lies_in_a_window_and_those_off_the_border_in_four():
    times = window_masks(96)[:-1].sum(dim=(0, 1))
    assert times.min() == 1
    assert (times[24:72, 24:72] == 4).all()
    assert torch.equal(times, times.flip(0))
    assert torch.equal(times, times.T)


def test_windows_of_background_alone_are_not_structured(lopsided):
    found = structured_windows(lopsided).view(3, WINDOWS_PER_SIDE, WINDOWS_PER_SIDE)
    assert not found[0, :, 2].any()
    assert found[0, :, 0].all()
    assert not found[1, 2].any()
    assert found[1, 0].all()
    assert found[2].all()


def test_windows_of_a_volume_are_structured_where_its_anatomy_is(generator):
    volumes = torch.full((3, 1, 24, 32, 20), 0.2)
    for axis, share in enumerate((0.3, 0.3, 0.3)):  # anatomy at the beginning of one axis
        first = int(share * volumes.shape[2 + axis])
        part = volumes[axis].narrow(1 + axis, 0, first)
        part.copy_(torch.rand(part.shape, generator=generator))
    found = structured_windows(volumes).view(3, WINDOWS_PER_SIDE, WINDOWS_PER_SIDE, WINDOWS_PER_SIDE)
    for axis in range(3):
        assert found[axis].select(axis, 0).all()
        assert not found[axis].select(axis, 2).any()


@pytest.mark.parametrize(("gain", "offset"), [(0.3, 0.0), (1.0, 0.4), (0.2, 0.7), (5.0, -2.0), (-1.0, 1.0)])
def test_gain_and_offset_do_not_change_which_windows_are_structured(lopsided, gain, offset):
    assert torch.equal(structured_windows(gain * lopsided + offset), structured_windows(lopsided))


def test_a_batch_is_judged_as_its_images_one_by_one(lopsided):
    alone = torch.cat([structured_windows(image[None]) for image in lopsided])
    assert torch.equal(structured_windows(lopsided), alone)


def test_every_image_has_a_window_that_is_structured(generator):
    spots = torch.zeros(64, 1, 32, 32)  # one bright pixel somewhere: the least that an image can show
    place = torch.randint(32, (64, 2), generator=generator)
    spots[torch.arange(64), 0, place[:, 0], place[:, 1]] = 1
    assert structured_windows(spots).any(dim=1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_middle_of_one_window_is_itself_and_of_all_is_the_central_one(dims):
    windows = WINDOWS_PER_SIDE**dims
    assert middle_window(torch.eye(windows)).tolist() == list(range(windows))
    assert int(middle_window(torch.ones(windows))) == windows // 2
    assert middle_window(torch.ones(2, 3, windows)).shape == (2, 3)
