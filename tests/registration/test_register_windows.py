"""A copied part is found with the window that shows it, whatever is around."""

import pytest
import torch
from factories import SIDE, affine_map, as_bytes, corner_distance, move, oval, texture
from torch import Tensor

from mi_callback.images.windows import window_masks
from mi_callback.registration.schedule import register

pytestmark = pytest.mark.numeric

ROTATION = affine_map(12)


def pasted(theta: Tensor, windows: list[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Images with one window of a warped reference each, these references, and other ones."""
    reference, others = texture(2 * len(windows), seed=3).chunk(2)
    inside = window_masks(SIDE)[windows] > 0
    return as_bytes(torch.where(inside, move(reference, theta), others)), as_bytes(reference), as_bytes(others)


def test_a_quarter_pasted_into_another_image_is_found_with_its_window_and_not_without():
    windows = list(range(9))
    mixed, reference, _ = pasted(ROTATION, windows)
    part, whole = (register(mixed, reference, window=window) for window in (torch.tensor(windows), None))
    copied = []
    for k in windows:
        y, x = k // 3 * SIDE // 4, k % 3 * SIDE // 4
        # Neighbourhoods within the window.
        place = (k, slice(y + 6, y + SIDE // 2 - 6), slice(x + 6, x + SIDE // 2 - 6))
        copied.append((part.lncc_map[place].mean(), whole.lncc_map[place].mean()))
    copied = torch.tensor(copied)
    assert corner_distance(part.theta, ROTATION).median() < 1.5  # at corners that lie outside of most windows
    assert copied[4, 0] > 0.93  # the middle, of which nothing left the field of view
    assert copied[:, 0].median() > 0.92  # the corners hold little of the oval
    assert copied[:, 1].median() < 0.85
    assert (part.lncc > whole.lncc).all()
    assert (part.lncc > whole.lncc + 0.04).sum() >= 8
    assert part.lncc.min() > 0.85


def test_a_quarter_that_was_not_moved_agrees_entirely():
    mixed, reference, others = pasted(affine_map(), [0, 4, 5])
    window = torch.tensor([0, 4, 5])
    assert register(mixed, reference, window=window).lncc.min() > 0.96
    assert register(others, reference, window=window).lncc.max() < 0.85


def test_a_part_that_was_pasted_where_it_lay_is_found_without_a_window():
    mixed, reference, _ = pasted(affine_map(), list(range(9)))
    assert register(mixed, reference).lncc.min() > 0.88


def test_no_window_is_the_whole_image():
    reference = oval(3)
    generated = as_bytes(move(reference, ROTATION))
    whole, none = (register(generated, as_bytes(reference), window=w) for w in (None, torch.full((3,), -1)))
    assert torch.equal(whole.theta, none.theta)
    assert torch.equal(whole.lncc, none.lncc)
