"""Periodic patterns are seen and taken out; what bears none is left as it is."""

import pytest
import torch

from mi_callback import MemorizationDetector
from mi_callback.images.batches import Batch
from mi_callback.images.files import SliceFolder
from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.patterns import patterned, without_pattern, without_patterns
from mi_callback.images.perturbations import gaussian_noise, grid, k_space_truncation, low_resolution, stripes
from mi_callback.images.thumbnails import make_thumbnails
from mi_callback.lightning.rounds import digests_of


def anatomy(n: int = 6, side: int = 96, seed: int = 0) -> torch.Tensor:
    """Images in [0, 1] whose amplitude falls with frequency as that of anatomy does."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.fft.fftfreq(side)[:, None] * side, torch.fft.rfftfreq(side) * side
    amplitude = 1 / (1 + (y.square() + x.square()).sqrt()) ** 1.8
    phase = torch.rand(n, 1, *amplitude.shape, generator=generator) * 2 * torch.pi
    images = torch.fft.irfft2(amplitude * torch.polar(torch.ones_like(phase), phase), s=(side, side))
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    return 0.25 + 0.5 * (images - low) / (high - low)


def error(found: torch.Tensor, images: torch.Tensor) -> float:
    return float((found - images).std() / images.std())


@pytest.mark.parametrize("angle", [0.0, 37.0, 90.0, 135.0])
@pytest.mark.parametrize("period", [2.0, 2.4, 3.0, 5.7, 9.0])
def test_stripes_of_any_period_and_direction_are_seen_and_taken_out(period, angle):
    images = anatomy()
    striped = stripes(images, 0.2, period, angle)
    if period == 2.0 and angle in (0.0, 90.0):  # the sine of every pixel is 0
        striped = images + 0.2 * (-1.0) ** torch.arange(96)
    assert error(striped, images) > 0.5
    found, thumbnails = without_patterns(striped)
    assert patterned(make_thumbnails(striped, 96)).all()
    assert error(found, images) < 0.15
    assert torch.equal(thumbnails, make_thumbnails(found, 96))


def test_stripes_over_a_part_of_the_image_are_taken_out_there_and_only_there():
    images = anatomy()
    half = images.clone()
    half[..., :48] = stripes(images, 0.2, 5.0)[..., :48]
    found = without_patterns(half)[0]
    assert error(found[..., :40], images[..., :40]) < 0.25
    assert error(found[..., 60:], images[..., 60:]) < 0.12


@pytest.mark.parametrize("period", [6, 8, 11])
def test_between_the_lines_of_a_grid_all_is_as_it_was_and_these_are_filled(period):
    images = anatomy()
    found = without_patterns(grid(images, period))[0]
    assert error(found, images) < 0.15
    between = [i for i in range(96) if i % period]
    assert torch.equal(found[..., between, :][..., between], images[..., between, :][..., between])


def test_what_bears_no_pattern_is_the_same_to_the_last_bit(generator):
    images = anatomy(64)
    others = [gaussian_noise(images, 0.1, generator), low_resolution(images, 2), torch.rand(64, 1, 96, 96)]
    for plain in (images, *others):
        assert without_patterns(plain)[0] is plain


def test_of_a_batch_only_those_that_bear_a_pattern_change():
    images = anatomy()
    images[2:3] = stripes(images[2:3], 0.2, 6.0)
    found = without_patterns(images)[0]
    assert [torch.equal(one, other) for one, other in zip(found, images, strict=True)] == [True] * 2 + [False] + [
        True
    ] * 3


def test_an_image_of_any_size_and_scale_is_cleaned_at_its_own_resolution():
    images = anatomy(2, side=150)
    found = without_patterns(1000 + 4000 * stripes(images, 0.2, 8.0, 20.0))[0]
    assert error((found - 1000) / 4000, images) < 0.15


def test_a_constant_image_has_no_pattern():
    assert torch.equal(without_pattern(torch.full((1, 1, 40, 50), 0.5)), torch.full((1, 1, 40, 50), 0.5))


def test_volumes_colours_and_small_images_are_left_as_they_came():
    for images in (torch.rand(1, 1, 48, 48, 48), torch.rand(2, 3, 96, 96), torch.rand(8, 1, 12, 10)):
        assert without_patterns(images)[0] is images


@pytest.mark.parametrize("folder", ["ixi_t1/slices", "open_ms/slices", "spider_lumbar/slices"])
def test_real_slices_do_not_seem_to_bear_one(mri, folder):
    slices = SliceFolder(mri / folder, size=(96, 96))
    images = torch.stack([slices[i]["image"] for i in range(0, len(slices), 5)]).float()
    images = normalise_intensity(images, "quantile")
    assert not patterned(make_thumbnails(images, 96)).any()
    assert patterned(make_thumbnails(k_space_truncation(images, 0.6), 96)).double().mean() < 0.02  # its end stands out


def test_an_image_under_a_pattern_is_known_again_by_the_callback():
    """What is compared with what was fitted on has been through the same: else it would be new at every look."""
    images = stripes(anatomy(), 0.2, 6.0)
    detector = MemorizationDetector("pixels", verify=False)
    assert digests_of(detector, Batch(images, None, None)) == detector.features(images).digests()
