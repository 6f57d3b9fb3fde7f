"""Thumbnails: bytes that use their whole range, and of volumes the anatomy alone."""

import pytest
import torch
import torch.nn.functional as F

from mi_callback.images.intensity import normalise_intensity
from mi_callback.images.resizing import letterbox, resize
from mi_callback.images.thumbnails import make_thumbnails

pytestmark = pytest.mark.numeric


@pytest.fixture
def images(generator):
    return torch.rand(4, 1, 20, 24, generator=generator) * 700 - 100


# Promise


def test_thumbnails_are_bytes_that_use_their_whole_range(images):
    small = make_thumbnails(images, 12)
    assert small.shape == (4, 12, 12)
    assert small.dtype == torch.uint8
    whole = make_thumbnails(images, 24)  # not downsampled: black and white survive
    assert whole.amin() == 0
    assert whole.amax() == 255
    for image, found in zip(images, whole, strict=True):
        expected = letterbox(normalise_intensity(image[None], "quantile"), (24, 24)) * 255
        assert (found.float() - expected[0, 0]).abs().max() <= 0.5


def blob(shape: tuple = (20, 26, 22)) -> torch.Tensor:
    """A volume with anatomy up to its borders, `(1, 1, d, h, w)` in [0, 1]."""
    texture = torch.rand(1, 1, 5, 5, 5, generator=torch.Generator().manual_seed(3))
    grown = F.interpolate(texture, shape, mode="trilinear", align_corners=True)
    z, y, x = torch.meshgrid(*(torch.linspace(-1, 1, side) for side in shape), indexing="ij")
    return (0.3 + 0.7 * grown) * (z**2 + y**2 + x**2 <= 1.1)


MARGINS = {
    "none": (0,) * 6,
    "one_side": (9, 0, 0, 0, 0, 0),
    "all_sides": (7, 12, 5, 5, 10, 3),
    "plane": (11, 11, 9, 9, 0, 0),
}


@pytest.mark.parametrize("gain", [1, 700])
@pytest.mark.parametrize("margin", MARGINS)
def test_thumbnails_of_volumes_know_no_margins(margin, gain):
    plain = make_thumbnails(gain * blob(), 16)
    assert plain.shape == (1, 16, 16, 16)
    padded = make_thumbnails(gain * F.pad(blob(), MARGINS[margin]), 16)
    assert (padded.float() - plain.float()).abs().max() <= 1
    expected = normalise_intensity(blob(), "quantile") * 255
    assert (plain.float() - resize(expected, (16,) * 3)[:, 0]).abs().max() <= 0.5


@pytest.mark.parametrize("air", ["noise", "rician", "hot_voxel", "none"])
def test_noise_in_the_air_does_not_hide_where_the_anatomy_ends(generator, air):
    anatomy = blob((40, 52, 44))
    volume = F.pad(anatomy, (16,) * 6)
    noise = 0.02 * torch.randn(2, *volume.shape, generator=generator)
    changed = {
        "noise": (volume + noise[0]).clamp(0, 1),
        "rician": torch.hypot(volume + noise[0], noise[1]),
        "hot_voxel": volume.clone(),
        "none": volume,
    }[air]
    if air == "hot_voxel":
        changed[..., 1, 1, 1] = 1.0
    found, expected = (make_thumbnails(one, 16).float() for one in (changed, anatomy))
    # The box may be larger by a voxel on each side.
    assert (found - expected).abs().mean() < (20 if air in ("noise", "rician") else 1)


def test_thumbnails_of_odd_volumes_are_what_little_there_is():
    dark = torch.zeros(1, 1, 9, 12, 10)
    dark[..., 4, 5, 6] = 1.0
    assert len(make_thumbnails(dark, 8).unique()) == 1  # one voxel fills the cube
    assert (make_thumbnails(1 - dark, 8) < 255).any()  # one dark voxel in the light
    line = torch.zeros(1, 1, 9, 12, 10)
    line[..., 4, :, 6] = torch.linspace(0.5, 1, 12)
    found = make_thumbnails(line, 8)[0].float()
    assert found[:, 0].max() < found[:, -1].min()
    assert (found == found[:1, :, :1]).all()
    large = torch.rand(1, 1, 40, 2, 60, generator=torch.Generator().manual_seed(0))
    assert make_thumbnails(large, 8).shape == (1, 8, 8, 8)
    both = torch.cat([blob(), blob().flip(2)])
    assert torch.equal(make_thumbnails(both, 8), torch.cat([make_thumbnails(one[None], 8) for one in both]))


@pytest.mark.parametrize("flip", [(-1,), (-2,), (-3,), (-1, -2, -3)])
def test_a_flipped_volume_has_the_flipped_thumbnail(flip):
    volume = F.pad(blob(), (8, 2, 0, 5, 3, 1))
    assert torch.equal(make_thumbnails(volume.flip(flip), 16), make_thumbnails(volume, 16).flip(flip))
