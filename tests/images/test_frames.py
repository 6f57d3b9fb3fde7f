"""The frame of an image: it moves with what is shown."""

import math

import pytest
import torch

from mi_callback.images.config import FRAME
from mi_callback.images.frames import frame_by_moments
from mi_callback.images.perturbations import affine
from mi_callback.images.poses import POSES, orbit

pytestmark = pytest.mark.numeric

SIDE = FRAME.coarse  # what is measured at the side of the image needs no resampling in the definition


def blob(side: int = 96, dims: int = 2) -> torch.Tensor:
    """A lopsided structure on black, well inside the image, `(1, 1, side, …)`."""
    place = (torch.arange(side) + 0.5) / side
    grid = torch.meshgrid(*[place] * dims, indexing="ij")
    body = sum((axis - 0.5) ** 2 for axis in grid) < 0.2**2
    bump = sum((axis - 0.42) ** 2 for axis in grid) < 0.08**2
    return (0.6 * body + 0.4 * bump)[None, None].float()


# Definition


def test_the_frame_is_centred_on_brightness_and_reaches_as_far_as_it_is_spread(generator):
    image = torch.rand(SIDE, SIDE, generator=generator, dtype=torch.float64)
    values = sorted(image.flatten().tolist())
    background = values[round(FRAME.dark * len(values)) - 1]
    total = y = x = 0.0
    weight = [[max(0.0, float(image[i, j]) - background) for j in range(SIDE)] for i in range(SIDE)]
    for i in range(SIDE):
        for j in range(SIDE):
            total, y, x = total + weight[i][j], y + weight[i][j] * (i + 0.5), x + weight[i][j] * (j + 0.5)
    y, x = y / total, x / total
    variance = 0.0
    for i in range(SIDE):
        for j in range(SIDE):
            variance += weight[i][j] / total * ((i + 0.5 - y) ** 2 + (j + 0.5 - x) ** 2) / 2
    half = FRAME.reach * math.sqrt(variance)
    darkest = float(image.min())

    def pixel(i: int, j: int) -> float:
        return float(image[i, j]) - darkest if 0 <= i < SIDE and 0 <= j < SIDE else 0.0

    found = frame_by_moments(image[None, None].float())[0, 0]
    for i in range(0, SIDE, 5):
        for j in range(0, SIDE, 5):
            v, u = (centre + half * (2 * (k + 0.5) / SIDE - 1) - 0.5 for centre, k in ((y, i), (x, j)))
            top, left = math.floor(v), math.floor(u)
            expected = darkest + sum(
                (1 - abs(v - a)) * (1 - abs(u - b)) * pixel(a, b) for a in (top, top + 1) for b in (left, left + 1)
            )
            assert found[i, j] == pytest.approx(expected, abs=1e-4)


# Promise


@pytest.mark.parametrize("change", [{"shift_x": 0.15, "shift_y": -0.1}, {"scale_x": 1.3, "scale_y": 1.3}])
def test_what_was_moved_or_magnified_looks_the_same_in_its_frame(change):
    image = blob()
    moved = affine(image, **change)
    assert (image - moved).abs().mean() > 0.03
    assert (frame_by_moments(image) - frame_by_moments(moved)).abs().mean() < 0.01


def test_the_frame_turns_with_the_image():
    image = blob()
    framed_then_turned, turned_then_framed = (
        affine(frame_by_moments(image), rotation=20.0),
        frame_by_moments(affine(image, rotation=20.0)),
    )
    place = torch.linspace(-1, 1, 96)
    inside = place[:, None] ** 2 + place**2 < 0.9  # what a turn of the frame does not leave
    assert (framed_then_turned - turned_then_framed)[..., inside].abs().mean() < 0.01
    assert (frame_by_moments(image) - turned_then_framed)[..., inside].abs().mean() > 0.03


def test_a_volume_has_its_frame_too():
    volume = blob(32, 3)
    moved = volume.roll((3, -2, 4), dims=(2, 3, 4))
    assert (volume - moved).abs().mean() > 0.01
    assert (frame_by_moments(volume) - frame_by_moments(moved)).abs().mean() < 0.002


@pytest.mark.parametrize(("pose", "dims"), [*((p, 2) for p in orbit("dihedral")), *((p, 3) for p in orbit("flips", 3))])
def test_a_posed_image_is_framed_as_the_frame_is_posed(generator, pose, dims):
    images = torch.rand(2, 1, *[30] * dims, generator=generator) ** 3
    assert torch.allclose(frame_by_moments(POSES[pose](images)), POSES[pose](frame_by_moments(images)), atol=1e-4)


def test_units_of_brightness_do_not_move_the_frame():
    image = blob() + 0.1 * torch.rand(1, 1, 96, 96, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(frame_by_moments(2000 * image - 1024), 2000 * frame_by_moments(image) - 1024, atol=0.5)


def test_what_lies_outside_of_the_image_is_dark_and_the_frame_is_square():
    down, right = torch.arange(40)[:, None] - 39.0, torch.arange(60) - 59.0
    corner = torch.exp((down + right) / 6)[None, None] - 5  # brightest in the last corner
    corner[..., 0, 0] = -5
    seen = frame_by_moments(corner)
    assert seen.shape == (1, 1, 60, 60)
    assert seen[0, 0, -1, -1] == seen.min() == -5
    assert seen.max() > -4.2


def test_channels_share_a_frame_and_images_of_a_batch_have_their_own(generator):
    images = torch.rand(3, 3, 20, 26, generator=generator) ** 4
    together = frame_by_moments(images)
    assert torch.allclose(together, torch.cat([frame_by_moments(image[None]) for image in images]), atol=1e-5)
    same = images[:, :1].expand(-1, 3, -1, -1)
    assert torch.allclose(frame_by_moments(same), frame_by_moments(images[:, :1]).expand(-1, 3, -1, -1), atol=1e-5)


def test_the_smallest_images_have_a_frame():
    image = torch.zeros(1, 1, 2, 2)
    image[..., 0, 0] = 1
    assert frame_by_moments(image).isfinite().all()
